"""New borders around a picture, with something to begin from (outpainting).

MIRROR: the picture mirrored at its edge, the more blurred the further out, so that no second subject grows there.
EDGE_NOISE: on top of that, noise with the spectrum and the colours of the picture near its edge (random phases:
Galerne, Gousseau and Morel 2011), which gives the network texture to shape. It follows from the picture alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from backend.images import gaussian
from backend.images.gaussian import Floats
from backend.init_image import BorderFill, Borders

_FIRST_DISTANCE = 8  # pixels outside, where the mirrored picture is blurred by the first of `_SIGMAS` entirely
_SIGMAS = (2, 4, 8, 16, 32, 64)  # each at twice the distance of the one before
_PATCH = 128  # side of what the spectrum is measured on
_PATCHES_A_SIDE = 2
_DETAIL_SIGMA = 8  # what is coarser comes from the mirrored picture, in its place
_TILE = 512  # period of the noise
_NOISE_RAMP = 48  # pixels over which noise sets in


class _Margins(NamedTuple):
    left: int
    top: int
    right: int
    bottom: int


def size_for(picture_size: tuple[int, int], borders: Borders, step: int) -> tuple[int, int]:
    """(width, height) of the picture with its borders, rounded up to multiples of `step`."""
    width = picture_size[0] + borders.left + borders.right
    height = picture_size[1] + borders.top + borders.bottom
    return math.ceil(width / step) * step, math.ceil(height / step) * step


def bordered(
    picture: Image.Image, mask: Image.Image | None, borders: Borders, size_step: int
) -> tuple[Image.Image, Image.Image]:
    """The picture (RGB) with filled borders and the mask (L) of what changes, both of the size `size_for` says.

    mask: what shall change of the picture itself, of its size, 255 for yes. The mask that comes back has the borders
    too, and falls off over `borders.overlap` pixels inside of the old edge. What rounding adds lies at the sides that
    have a border, or else on the right and at the bottom.
    """
    return bordered_to(picture, mask, borders, size_for(picture.size, borders, size_step))


def bordered_to(
    picture: Image.Image, mask: Image.Image | None, borders: Borders, size: tuple[int, int]
) -> tuple[Image.Image, Image.Image]:
    """As `bordered`, for a size that is at least that of the picture with its borders."""
    margins = _margins(picture.size, borders, size)
    filled = _mirrored(picture, margins)
    if borders.fill is BorderFill.EDGE_NOISE:
        filled = _with_noise(filled, picture, margins)
    filled.paste(picture, margins[:2])
    return filled, _mask(picture.size, mask, margins, borders.overlap)


def _margins(picture_size: tuple[int, int], borders: Borders, size: tuple[int, int]) -> _Margins:
    left, right = _widened(borders.left, borders.right, size[0] - picture_size[0])
    top, bottom = _widened(borders.top, borders.bottom, size[1] - picture_size[1])
    return _Margins(left, top, right, bottom)


def _widened(before: int, after: int, total: int) -> tuple[int, int]:
    """Both grown to `total` together: where there is only one border, it alone grows."""
    extra = total - before - after
    if extra < 0:
        raise ValueError(f"borders of {before} and {after} pixels do not fit into {total}")
    if before and after:
        return before + extra // 2, after + extra - extra // 2
    return (before + extra, 0) if before else (0, after + extra)


def _mask(picture_size: tuple[int, int], mask: Image.Image | None, margins: _Margins, overlap: int) -> Image.Image:
    width, height = picture_size
    columns = _ramp(width, margins.left > 0, margins.right > 0, overlap)
    rows = _ramp(height, margins.top > 0, margins.bottom > 0, overlap)
    inside = Image.fromarray(np.maximum(columns[None, :], rows[:, None]))
    if mask is not None:
        inside = ImageChops.lighter(inside, mask)
    whole = Image.new("L", _whole_size(picture_size, margins), 255)
    whole.paste(inside, margins[:2])
    return whole


def _ramp(count: int, starts: bool, ends: bool, overlap: int) -> npt.NDArray[np.uint8]:
    """[count] from nearly 255 at the ends that have a border to 0 at `overlap` pixels inside."""
    before = np.arange(1, count + 1, dtype=np.float32)
    distance = np.full(count, np.inf, np.float32)
    for has_border, pixels in ((starts, before), (ends, before[::-1])):
        distance = np.minimum(distance, pixels) if has_border else distance
    return np.rint(255 * np.clip(1 - distance / (overlap + 1), 0, 1)).astype(np.uint8)


def _whole_size(picture_size: tuple[int, int], margins: _Margins) -> tuple[int, int]:
    return picture_size[0] + margins.left + margins.right, picture_size[1] + margins.top + margins.bottom


def _mirrored(picture: Image.Image, margins: _Margins) -> Image.Image:
    """The picture mirrored at its edges as often as it takes, blurred by the distance from them."""
    around = ((margins.top, margins.bottom), (margins.left, margins.right), (0, 0))
    whole = Image.fromarray(np.pad(np.asarray(picture), around, mode="symmetric"))
    distance = _distance_outside(picture.size, margins)
    result = whole
    for index, sigma in enumerate(_SIGMAS):
        full = _FIRST_DISTANCE * 2**index  # from where this blur alone shows
        share = np.clip(2 * distance / full - 1, 0, 1) if index else np.clip(distance / full, 0, 1)
        if not share.any():
            break
        result = Image.composite(_blurred(whole, sigma), result, _levels(255 * share))
    return result


def _distance_outside(picture_size: tuple[int, int], margins: _Margins) -> Floats:
    """[H, W]: pixels that lie between it and the picture, 0 inside."""
    across = _outside(picture_size[0], margins.left, margins.right)
    down = _outside(picture_size[1], margins.top, margins.bottom)
    return np.hypot(across[None, :], down[:, None])


def _outside(count: int, before: int, after: int) -> Floats:
    at = np.arange(-before, count + after, dtype=np.float32)
    return np.maximum(np.maximum(-at - 1, at - count), 0)  # so that the first pixel is as sharp as the edge


def _blurred(image: Image.Image, sigma: float) -> Image.Image:
    """On a reduced picture: see masked_content.py."""
    factor = max(1, int(sigma) // 2)
    small = image.reduce(factor)
    planes = np.stack([np.asarray(plane) for plane in small.split()]).astype(np.float32)
    blurred = gaussian.blurred(planes, math.sqrt(sigma**2 - factor**2 / 4) / factor)
    result = Image.merge("RGB", [_levels(plane) for plane in blurred])
    within = (0, 0, image.width / factor, image.height / factor)
    return result.resize(image.size, Image.Resampling.BILINEAR, box=within)


def _levels(values: Floats) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _with_noise(filled: Image.Image, picture: Image.Image, margins: _Margins) -> Image.Image:
    tile = _noise_like(picture, margins)  # [3, T, T]
    width, height = filled.size
    share = np.clip(_distance_outside(picture.size, margins) / _NOISE_RAMP, 0, 1)
    rows, columns = np.arange(height) % _TILE, np.arange(width) % _TILE
    planes = [
        _levels(np.asarray(plane) + share * noise[rows[:, None], columns[None, :]])
        for plane, noise in zip(filled.split(), tile, strict=True)
    ]
    return Image.merge("RGB", planes)


def _noise_like(picture: Image.Image, margins: _Margins) -> Floats:
    """[3, T, T] of mean 0, periodic, with the covariances of the picture's details near the bordered edges.

    White noise convolved with a detail has its spectrum, and the same noise in all channels keeps how its colours
    belong together. Of several details, each has noise of its own.
    """
    random = np.random.RandomState(_seed(picture))  # its stream never changes between versions of numpy
    spectrum = np.zeros((3, _TILE, _TILE // 2 + 1), np.complex64)
    patches = list(_details(picture, margins))
    for patch in patches:
        white = np.fft.rfft2(random.standard_normal((_TILE, _TILE)).astype(np.float32))
        spectrum += np.fft.rfft2(patch, (_TILE, _TILE)) * white
    noise = np.fft.irfft2(spectrum, (_TILE, _TILE)) / math.sqrt(max(1, len(patches)))
    return noise.astype(np.float32)


def _details(picture: Image.Image, margins: _Margins) -> Iterator[Floats]:
    """[3, h, w] each: windowed pieces of the picture along its bordered edges, without what the mirrored blur shows."""
    side_x, side_y = min(_PATCH, picture.width), min(_PATCH, picture.height)
    window = np.outer(np.hanning(side_y + 2)[1:-1], np.hanning(side_x + 2)[1:-1]).astype(np.float32)
    for left, top in _places(picture.size, (side_x, side_y), margins):
        part = picture.crop((left, top, left + side_x, top + side_y))
        planes = np.stack([np.asarray(plane) for plane in part.split()]).astype(np.float32)
        fine = (planes - gaussian.blurred(planes, _DETAIL_SIGMA)) * window
        yield fine / math.sqrt(float((window**2).sum()))


def _places(size: tuple[int, int], side: tuple[int, int], margins: _Margins) -> list[tuple[int, int]]:
    """Top left corners, evenly along the edges that have a border."""
    last_x, last_y = size[0] - side[0], size[1] - side[1]
    shares = [(k + 0.5) / _PATCHES_A_SIDE for k in range(_PATCHES_A_SIDE)]
    across, down = [round(last_x * share) for share in shares], [round(last_y * share) for share in shares]
    return [
        *((x, 0) for x in across if margins.top),
        *((x, last_y) for x in across if margins.bottom),
        *((0, y) for y in down if margins.left),
        *((last_x, y) for y in down if margins.right),
    ]


def _seed(picture: Image.Image) -> int:
    return int.from_bytes(hashlib.sha256(picture.tobytes()).digest()[:4], "big")
