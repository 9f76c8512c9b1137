"""Pictures brought to the size that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from backend.init_image import ResizeMode

Enlarge: TypeAlias = Callable[[Image.Image, int, int], Image.Image]
"""What makes a picture larger: (image, width, height) -> an image of that size."""


class Layout(NamedTuple):
    """Where a picture lies in another size: how large it becomes, and the place of its top left corner."""

    left: int
    top: int
    width: int
    height: int


def layout_of(size: tuple[int, int], width: int, height: int, mode: ResizeMode) -> Layout:
    """How a picture of `size` comes to width x height: larger than that where it hangs over, smaller where it fits in.

    Rounded as A1111 does, so that pictures match to the pixel.
    """
    own_width, own_height = size
    is_wider = own_width * height > own_height * width  # than what is asked for
    match mode:
        case ResizeMode.STRETCH | ResizeMode.LATENT:
            return Layout(0, 0, width, height)
        case ResizeMode.CROP:
            keeps_width = not is_wider
        case ResizeMode.FILL:
            keeps_width = is_wider
    if keeps_width:
        scaled = width, max(1, own_height * width // own_width)
    else:
        scaled = max(1, own_width * height // own_height), height
    return Layout(width // 2 - scaled[0] // 2, height // 2 - scaled[1] // 2, *scaled)


def resized(
    image: Image.Image,
    width: int,
    height: int,
    mode: ResizeMode,
    enlarge: Enlarge | None = None,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """`image` in width x height, of the same mode; itself when it has this size.

    FILL repeats the outermost pixels where the picture leaves room; LATENT is STRETCH here.
    enlarge: in place of `resample` for what gets larger.
    """
    if image.size == (width, height):
        return image
    place = layout_of(image.size, width, height, mode)
    scaled = _scaled(image, place.width, place.height, enlarge, resample)
    if scaled.size == (width, height):
        return scaled
    left, top = max(0, -place.left), max(0, -place.top)
    shown = scaled.crop((left, top, min(left + width, scaled.width), min(top + height, scaled.height)))
    return _with_continued_edges(shown, max(0, place.left), max(0, place.top), width, height)


def _scaled(
    image: Image.Image, width: int, height: int, enlarge: Enlarge | None, resample: Image.Resampling
) -> Image.Image:
    if image.size == (width, height):
        return image
    if enlarge is not None and (width > image.width or height > image.height):
        image = enlarge(image, width, height)
    return image if image.size == (width, height) else image.resize((width, height), resample)


def _with_continued_edges(image: Image.Image, left: int, top: int, width: int, height: int) -> Image.Image:
    """`image` at (left, top) of a larger one."""
    if image.size == (width, height):
        return image
    pixels = np.asarray(image)
    around = ((top, height - top - image.height), (left, width - left - image.width))
    return Image.fromarray(np.pad(pixels, around + ((0, 0),) * (pixels.ndim - 2), mode="edge"))
