"""How large a picture becomes, and what of it is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

from backend.engine.upscale_request import MAX_SIDE, UpscaleRequest
from backend.errors import RequestError

_MOST_PIXELS = 150_000_000  # of a result: more than half a gigabyte while it is made


@dataclass(frozen=True, kw_only=True)
class UpscaledSize:
    """width, height: what the picture is enlarged to. kept: what of that is cut out of its middle, width and height."""

    width: int
    height: int
    kept: tuple[int, int]

    def cut(self, image: Image.Image) -> Image.Image:
        if image.size == self.kept:
            return image
        left, top = (image.width - self.kept[0]) // 2, (image.height - self.kept[1]) // 2
        return image.crop((left, top, left + self.kept[0], top + self.kept[1]))


def upscaled_size(request: UpscaleRequest, width: int, height: int) -> UpscaledSize:
    """Of a picture of this size. Raises RequestError for a result that is too large."""
    if request.width and request.height:
        scale = max(request.width / width, request.height / height)
    elif request.width or request.height:
        scale = request.width / width if request.width else (request.height or height) / height
    else:
        scale = request.scale
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if request.width and request.height:  # rounding must not miss them by a pixel
        size = max(size[0], request.width), max(size[1], request.height)
    if max(size) > MAX_SIDE or math.prod(size) > _MOST_PIXELS:
        field = "scale" if not (request.width or request.height) else "width" if request.width else "height"
        raise RequestError(
            field,
            f"makes {size[0]} x {size[1]} pixels of {width} x {height}; at most {MAX_SIDE} a side and "
            f"{_MOST_PIXELS // 1_000_000} megapixels can be made. Choose less",
        )
    kept = (request.width, request.height) if request.crop and request.width and request.height else size
    return UpscaledSize(width=size[0], height=size[1], kept=kept)
