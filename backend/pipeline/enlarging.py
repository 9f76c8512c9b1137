"""The step between the passes of hires fix: to which size, and what is cut off."""

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


def enlarged_size(hires: HiresFix, width: int, height: int, step: int) -> tuple[int, int]:
    """Width and height, multiples of `step`, of what becomes of a picture of this size.

    A factor of both sides, or one side and the other in proportion, or both sides.
    """
    if hires.width and hires.height:
        sides = hires.width, hires.height
    elif hires.width:
        sides = hires.width, height * hires.width / width
    elif hires.height:
        sides = width * hires.height / height, hires.height
    else:
        sides = width * hires.scale, height * hires.scale
    return max(step, int(sides[0]) // step * step), max(step, int(sides[1]) // step * step)


def covering(width: int, height: int, kept_width: int, kept_height: int) -> Enlargement:
    """How a picture of this size covers one of another shape: what hangs over is cut off, as A1111 has it.

    kept_width, kept_height: multiples of 8, and so are the sides of what covers them.
    """
    if width * kept_height > height * kept_width:  # wider than what is wanted
        sides = max(kept_width, int(width * kept_height / height) // 8 * 8), kept_height
    else:
        sides = kept_width, max(kept_height, int(height * kept_width / width) // 8 * 8)
    return Enlargement(width=sides[0], height=sides[1], kept_width=kept_width, kept_height=kept_height)


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
