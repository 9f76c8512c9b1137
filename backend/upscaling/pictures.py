"""Pictures in colour, in grey and with transparency, as networks take them that know one, three or four channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from backend.upscaling.upscaler import OnTile, Upscaler

_HIDDEN_BLUR = 4  # pixels; as far as networks let colours run over the edge of what can be seen


def upscaled_picture(
    image: Image.Image,
    upscaler: Upscaler,
    *,
    on_tile: OnTile = lambda _done, _all: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Image.Image:
    """A picture `scale` times as large along its sides; grey, RGB and RGBA (any other mode becomes RGB) stay what
    they are. Raises as `Upscaler.upscale` does.
    """
    image = image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB")
    parts = _split(image, upscaler.channels)
    made: list[Tensor] = []
    for number, part in enumerate(parts):

        def on_part(done: int, everything: int, before: int = number) -> None:
            on_tile(before * everything + done, len(parts) * everything)

        made.append(upscaler.upscale(part, on_tile=on_part, is_cancelled=is_cancelled))
    return _joined(image, made, upscaler)


def _split(image: Image.Image, channels: int) -> Sequence[Tensor]:
    """What the network is given, one after the other: [channels, H, W] each, uint8."""
    planes = _planes(_with_shown_colours(image) if image.mode == "RGBA" else image)
    if channels == 4:
        colours = planes[:3].expand(3, -1, -1)
        alpha = planes[3:] if len(planes) == 4 else torch.full_like(planes[:1], 255)
        return [torch.cat((colours, alpha))]
    if channels == 1:
        parts = [*planes.split(1)]
    elif len(planes) == 1:
        parts = [planes.expand(3, -1, -1)]
    else:
        parts = [planes[:3], *(alpha.expand(3, -1, -1) for alpha in planes[3:])]
    return parts[:-1] if image.mode == "RGBA" and _is_opaque(image) else parts


def _joined(image: Image.Image, made: Sequence[Tensor], upscaler: Upscaler) -> Image.Image:
    planes = torch.cat([_grey(part) if _is_alpha(image, number, part) else part for number, part in enumerate(made)])
    if image.mode == "RGBA" and len(planes) == 3:
        planes = torch.cat((planes, torch.full_like(planes[:1], 255)))
    if image.mode == "RGB":
        planes = planes[:3]
    elif image.mode == "L":
        planes = _grey(planes[:3]) if len(planes) > 1 else planes
    pixels = planes.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if image.mode == "L" else pixels)


def _is_alpha(image: Image.Image, number: int, part: Tensor) -> bool:
    """Whether its three channels were the transparency, three times."""
    return image.mode == "RGBA" and number == 1 and len(part) == 3


def _grey(planes: Tensor) -> Tensor:
    return planes.float().mean(0, keepdim=True).round_().to(torch.uint8)


def _planes(image: Image.Image) -> Tensor:
    """[H, W] or [H, W, C] -> [C, H, W]"""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _is_opaque(image: Image.Image) -> bool:
    return image.getchannel("A").getextrema()[0] == 255


def _with_shown_colours(image: Image.Image) -> Image.Image:
    """What is quite transparent gets the colours beside it: its own, which nobody sees, would run over the edge."""
    beside = image.convert("RGBa").filter(ImageFilter.GaussianBlur(_HIDDEN_BLUR)).convert("RGBA")
    alpha = image.getchannel("A")
    shown = image.copy()
    shown.paste(beside, mask=alpha.point([255] + [0] * 255))
    shown.putalpha(alpha)
    return shown
