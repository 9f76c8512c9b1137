"""Masks as pictures of one channel, 255 where something changes; A1111's steps, each a function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops

from backend.images import gaussian

_EXACT_SIGMA = 16  # wider blurs are made on a reduced mask, where nobody can tell


class Box(NamedTuple):
    """In pixels; right and bottom lie outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


def mask_of(image: Image.Image) -> Image.Image:
    """What was painted: the alpha channel if something is transparent, else the luminance. Mode L."""
    if image.mode == "RGBA":
        alpha = image.getchannel("A")
        if alpha.getextrema() != (255, 255):
            return alpha
    return image.convert("L")


def rounded(mask: Image.Image) -> Image.Image:
    """Above 128 becomes 255, the rest 0."""
    return mask.point(_lookup(lambda level: 255 if level > 128 else 0))


def inverted(mask: Image.Image) -> Image.Image:
    return ImageChops.invert(mask)


def doubled(mask: Image.Image) -> Image.Image:
    """min(2 mask, 255): what a blurred mask lets through when the whole picture was made again."""
    return mask.point(_lookup(lambda level: min(2 * level, 255)))


def blurred(mask: Image.Image, sigma: float) -> Image.Image:
    """Gaussian blur of this standard deviation in pixels, which reaches int(2.5 sigma + 0.5) pixels far."""
    box = mask.getbbox()
    if sigma <= 0 or box is None:
        return mask
    if sigma > _EXACT_SIGMA:
        return _widely_blurred(mask, sigma)
    weights = gaussian.kernel(sigma)
    reach = len(weights) // 2
    # Nothing is further away than `reach`, so only this part is computed, with as much around it for its own edges.
    part = _grown(Box(*box), 2 * reach, mask.size)
    values = np.asarray(mask.crop(part)).astype(np.float32)
    values = np.rint(gaussian.blur_columns(values, weights))  # 8 bits after each axis, as in OpenCV
    values = np.rint(gaussian.blur_rows(values, weights))
    result = Image.new("L", mask.size)
    result.paste(Image.fromarray(values.astype(np.uint8)), part[:2])
    return result


def box_around(mask: Image.Image, padding: int, width: int, height: int) -> Box | None:
    """The part of the picture that is cut out for this mask, of about the shape width : height; None for an empty mask.

    What is not 0, and `padding` pixels on each side as far as there are any; then grown on its shorter side, shifted
    into the picture, and cut off where the picture is too small for the shape.
    """
    found = mask.getbbox()
    if found is None:
        return None
    box = _grown(Box(*found), padding, mask.size)
    if box.width * height > box.height * width:
        top, bottom = _longer(box.top, box.bottom, int(box.width * height / width), mask.height)
        return Box(box.left, top, box.right, bottom)
    left, right = _longer(box.left, box.right, int(box.height * width / height), mask.width)
    return Box(left, box.top, right, box.bottom)


def fitted(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Stretched to `size`, without the ringing that would change what lies outside."""
    return mask if mask.size == size else mask.resize(size, Image.Resampling.BILINEAR)


def _widely_blurred(mask: Image.Image, sigma: float) -> Image.Image:
    """Blurred on a mask reduced by `factor`.

    The mean over factor pixels has the variance factor**2 / 12 and bilinear interpolation factor**2 / 6, so the blur
    in between does the rest.
    """
    factor = 2 ** math.ceil(math.log2(sigma / _EXACT_SIGMA))
    reduced = np.asarray(mask.reduce(factor)).astype(np.float32)
    levels = np.rint(gaussian.blurred(reduced, math.sqrt((sigma / factor) ** 2 - 1 / 4)))
    small = Image.fromarray(levels.astype(np.uint8))
    whole = small.resize((small.width * factor, small.height * factor), Image.Resampling.BILINEAR)
    return whole.crop((0, 0, *mask.size))


def _lookup(level: Callable[[int], int]) -> list[int]:
    return [level(value) for value in range(256)]


def _longer(start: int, stop: int, length: int, limit: int) -> tuple[int, int]:
    """start..stop grown to `length` on both sides, an odd pixel after it, and shifted into 0..limit or cut off."""
    missing = max(0, length - (stop - start))
    start, stop = start - missing // 2, stop + missing - missing // 2
    if stop > limit:
        start, stop = start - (stop - limit), limit
    if start < 0:
        start, stop = 0, min(stop - start, limit)
    return start, stop


def _grown(box: Box, padding: int, size: tuple[int, int]) -> Box:
    return Box(
        max(0, box.left - padding),
        max(0, box.top - padding),
        min(size[0], box.right + padding),
        min(size[1], box.bottom + padding),
    )
