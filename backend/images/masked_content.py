"""Masked content "fill": the masked part in the colours of what is around it.

The picture without its masked part, blurred ever less, each blur laid over the last: wide ones reach the middle of the
mask, narrow ones only its rim. Radii and repetitions are A1111's. The wider a blur, the smaller the picture that it is
made on, which nobody can tell under the autoencoder.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageStat

from backend.images import gaussian
from backend.images.gaussian import Floats
from backend.images.masks import Box


class _Layer(NamedTuple):
    sigma: float  # in pixels of the picture
    repetitions: int
    reduction: int


# A1111's (radius, repetitions) but for (0, 1), which is the picture itself.
_LAYERS = (_Layer(256, 1, 64), _Layer(64, 1, 16), _Layer(16, 2, 4), _Layer(4, 4, 4), _Layer(2, 2, 4))
_LEAST_SHARE = 1e-6  # of a pixel that is kept: below this its colour is rounding


class _Kept(NamedTuple):
    """A picture without its masked part, reduced."""

    colours: Image.Image  # RGB, multiplied with the shares
    shares: Image.Image  # L: how much of a pixel is not masked

    def reduced(self, factor: int) -> _Kept:
        return _Kept(self.colours.reduce(factor), self.shares.reduce(factor))

    def crop(self, box: Box) -> _Kept:
        return _Kept(self.colours.crop(box), self.shares.crop(box))


def filled(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """`picture` (RGB) with its part under `mask` (L, of the same size) filled; bit-identical where the mask is 0.

    A picture of which nothing is kept gets its mean colour.
    """
    found = mask.getbbox()
    if found is None:
        return picture
    box, hidden = Box(*found), mask.crop(found)
    kept = picture.copy()
    kept.paste((0, 0, 0), box, hidden)
    pyramid = _pyramid(_Kept(kept, ImageChops.invert(mask)))
    result = picture.copy()
    result.paste(_surroundings(pyramid, _mean_colour(picture, pyramid[16]), box), box, hidden)
    return result


def _pyramid(kept: _Kept) -> dict[int, _Kept]:
    """By reduction."""
    levels, finer = dict[int, _Kept](), 1
    for reduction in sorted({layer.reduction for layer in _LAYERS}):
        kept = levels[reduction] = kept.reduced(reduction // finer)
        finer = reduction
    return levels


def _mean_colour(picture: Image.Image, kept: _Kept) -> tuple[int, int, int]:
    """Of what is kept: where even the widest blur does not reach."""
    shares = ImageStat.Stat(kept.shares).sum[0] / 255
    sums = ImageStat.Stat(kept.colours).sum if shares else ImageStat.Stat(picture).mean
    red, green, blue = (min(255, round(value / (shares or 1))) for value in sums)
    return red, green, blue


def _surroundings(pyramid: dict[int, _Kept], ground: tuple[int, int, int], box: Box) -> Image.Image:
    """All layers, one above the other; the part `box` of them."""
    reduction = max(pyramid)
    window = Box(0, 0, *pyramid[reduction].shares.size)
    below = Image.new("RGB", pyramid[reduction].shares.size, ground)
    for layer in _LAYERS:
        kept = pyramid[layer.reduction]
        part = _reach(box, layer, kept.shares.size)
        below = _enlarged(below, window, reduction // layer.reduction, part)
        below = _laid_over(below, kept.crop(part), layer)
        window, reduction = part, layer.reduction
    return _enlarged(below, window, reduction, box)


def _reach(box: Box, layer: _Layer, size: tuple[int, int]) -> Box:
    """What the layer must be computed for to be right in `box`, in its own pixels."""
    margin = gaussian.radius_of(layer.sigma / layer.reduction) + 2
    return Box(
        max(0, box.left // layer.reduction - margin),
        max(0, box.top // layer.reduction - margin),
        min(size[0], math.ceil(box.right / layer.reduction) + margin),
        min(size[1], math.ceil(box.bottom / layer.reduction) + margin),
    )


def _laid_over(below: Image.Image, kept: _Kept, layer: _Layer) -> Image.Image:
    planes = np.stack([np.asarray(plane) for plane in (*kept.colours.split(), kept.shares)]).astype(np.float32)
    # Reducing and enlarging again blur too, by the variance reduction**2 / 4: see masks.py.
    sigma = math.sqrt(layer.sigma**2 - layer.reduction**2 / 4) / layer.reduction
    *colours, share = gaussian.blurred(planes, sigma)  # each [h, w]
    share /= 255
    opacity = 1 - (1 - share) ** layer.repetitions
    weight = opacity / np.maximum(share, _LEAST_SHARE)
    levels = [
        np.asarray(ground) * (1 - opacity) + colour * weight
        for ground, colour in zip(below.split(), colours, strict=True)
    ]
    return Image.merge("RGB", [Image.fromarray(_eight_bits(level)) for level in levels])


def _enlarged(image: Image.Image, window: Box, factor: int, part: Box) -> Image.Image:
    """`part`, in pixels `factor` times as fine, of `image`, which shows `window`."""
    left, top, right, bottom = (side / factor for side in part)
    within = left - window.left, top - window.top, right - window.left, bottom - window.top
    return image.resize((part.width, part.height), Image.Resampling.BILINEAR, box=within)


def _eight_bits(level: Floats) -> npt.NDArray[np.uint8]:
    return np.clip(level + 0.5, 0, 255).astype(np.uint8)
