"""The step between the passes of hires fix: to which size, and how."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from backend.diffusion.latent_upscaling import LatentUpscaler
from backend.second_pass import HiresFix


@dataclass(frozen=True, kw_only=True)
class Enlargement:
    """What the first picture is enlarged to, in pixels, and what of it is kept, from its middle."""

    width: int
    height: int
    kept_width: int
    kept_height: int


def enlargement_of(hires: HiresFix, width: int, height: int, step: int = 8) -> Enlargement:
    """Of a picture of this size. step: sides are rounded down to multiples of it.

    A factor, or one side and the other in proportion, or both sides: the picture then covers them, and what hangs over
    is cut off, as A1111 has it.
    """

    def whole(side: float) -> int:
        return max(step, int(side) // step * step)

    if hires.width and hires.height:
        kept = whole(hires.width), whole(hires.height)
        if width * hires.height > height * hires.width:  # wider than what is wanted
            return Enlargement(
                width=whole(width * kept[1] / height), height=kept[1], kept_width=kept[0], kept_height=kept[1]
            )
        return Enlargement(
            width=kept[0], height=whole(height * kept[0] / width), kept_width=kept[0], kept_height=kept[1]
        )
    if hires.width:
        sides = whole(hires.width), whole(height * hires.width / width)
    elif hires.height:
        sides = whole(width * hires.height / height), whole(hires.height)
    else:
        sides = whole(width * hires.scale), whole(height * hires.scale)
    return Enlargement(width=sides[0], height=sides[1], kept_width=sides[0], kept_height=sides[1])


def enlarged_latents(latents: Tensor, by: LatentUpscaler, size: Enlargement) -> Tensor:
    """[B, C, h, w], eight pixels each, with the middle cut out; an odd pixel more is kept on the right and below."""
    large = by.enlarge(latents, size.height // 8, size.width // 8)
    height, width = size.kept_height // 8, size.kept_width // 8
    top, left = (large.shape[-2] - height) // 2, (large.shape[-1] - width) // 2
    return large[..., top : top + height, left : left + width].contiguous()


def cut_to(picture: Image.Image, size: Enlargement) -> Image.Image:
    """The middle of a picture that has been enlarged."""
    left, top = (picture.width - size.kept_width) // 2 // 8 * 8, (picture.height - size.kept_height) // 2 // 8 * 8
    return picture.crop((left, top, left + size.kept_width, top + size.kept_height))
