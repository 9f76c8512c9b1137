"""Masked content "fill": the masked part in the colours of what is around it.

The picture without its masked part, blurred ever less, each blur laid over the last: wide ones reach the middle of the
mask, narrow ones only its rim. Radii and repetitions are A1111's. The wider a blur, the smaller the picture that it is
made on, which nobody can tell under the autoencoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
_FINEST = 4  # reducing to this and enlarging again is the narrowest blur
_LEAST_SHARE = 1e-6  # of a pixel that is kept: below this its colour is rounding


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
    pyramid = _pyramid(kept, ImageChops.invert(mask))
    ground = _mean_colour(pyramid[_FINEST]) or _rounded(ImageStat.Stat(picture).mean)
    result = picture.copy()
    result.paste(_surroundings(pyramid, ground, box), box, hidden)
    return result


def _pyramid(kept: Image.Image, shares: Image.Image) -> dict[int, Floats]:
    """By reduction, [4, h, w] of 0..255: colours multiplied with the share of a pixel that is kept, and this share."""
    planes = [np.asarray(plane.reduce(_FINEST)) for plane in (*kept.split(), shares)]
    levels, finer = {_FINEST: np.stack(planes).astype(np.float32)}, _FINEST
    for reduction in sorted({layer.reduction for layer in _LAYERS} - {_FINEST}):
        levels[reduction] = _reduced(levels[finer], reduction // finer)
        finer = reduction
    return levels


def _reduced(values: Floats, factor: int) -> Floats:
    """[..., H, W] as the means of squares, of less at the right and at the bottom."""
    for axis in (-2, -1):
        starts = np.arange(0, values.shape[axis], factor)
        counts = np.diff(starts, append=values.shape[axis]).astype(np.float32)
        values = np.add.reduceat(values, starts, axis) / (counts[:, None] if axis == -2 else counts)
    return values


def _mean_colour(kept: Floats) -> tuple[int, int, int] | None:
    """Of what is kept, where even the widest blur does not reach; None if nothing is."""
    *colours, share = kept.sum(axis=(1, 2), dtype=np.float64)
    return _rounded([255 * colour / share for colour in colours]) if share else None


def _rounded(colour: Sequence[float]) -> tuple[int, int, int]:
    red, green, blue = (min(255, round(level)) for level in colour)
    return red, green, blue


def _surroundings(pyramid: dict[int, Floats], ground: tuple[int, int, int], box: Box) -> Image.Image:
    """All layers, one above the other; the part `box` of them."""
    reduction = max(pyramid)
    height, width = pyramid[reduction].shape[1:]
    window, below = Box(0, 0, width, height), Image.new("RGB", (width, height), ground)
    for layer in _LAYERS:
        kept = pyramid[layer.reduction]
        part = _reach(box, layer, (kept.shape[2], kept.shape[1]))
        below = _enlarged(below, window, reduction // layer.reduction, part)
        below = _laid_over(below, kept[:, part.top : part.bottom, part.left : part.right], layer)
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


def _laid_over(below: Image.Image, kept: Floats, layer: _Layer) -> Image.Image:
    # Reducing and enlarging again blur too, by the variance reduction**2 / 4: see masks.py.
    sigma = math.sqrt(layer.sigma**2 - layer.reduction**2 / 4) / layer.reduction
    *colours, alpha = gaussian.blurred(kept, sigma)  # each [h, w]
    share = alpha / 255
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
