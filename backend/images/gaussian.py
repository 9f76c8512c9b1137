"""Gaussian blur, exact and fast: each axis as a product with a banded matrix.

OpenCV's kernels, which A1111's masks are made with: truncated at 2.5 standard deviations, mirrored at the picture's
edge without repeating the outermost pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_BLOCK = 128  # rows that are computed in one product: more of them multiply more zeros


def radius_of(sigma: float) -> int:
    """Pixels on each side that a blur of this standard deviation reaches."""
    return int(2.5 * sigma + 0.5)


def kernel(sigma: float, radius: int | None = None) -> Floats:
    """The 2 radius + 1 weights, of sum 1."""
    radius = radius_of(sigma) if radius is None else radius
    if radius == 0:
        return np.ones(1, np.float32)
    distances = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (distances / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def blurred(values: Floats, sigma: float) -> Floats:
    """[..., H, W] blurred along H and W."""
    weights = kernel(sigma)
    if len(weights) == 1:
        return values
    return blur_rows(blur_columns(values, weights), weights)


def blur_rows(values: Floats, weights: Floats) -> Floats:
    """[..., H, W] blurred along H."""
    result = np.empty_like(values)
    for part, band in _bands(values.shape[-2], weights):
        np.matmul(band.weights, values[..., band.low : band.high, :], out=result[..., part, :])
    return result


def blur_columns(values: Floats, weights: Floats) -> Floats:
    """[..., H, W] blurred along W."""
    result = np.empty_like(values)
    for part, band in _bands(values.shape[-1], weights):
        np.matmul(values[..., band.low : band.high], band.weights.T, out=result[..., part])
    return result


class _Band(NamedTuple):
    """What some outputs take from the inputs low..high: [outputs, high - low]."""

    low: int
    high: int
    weights: Floats


def _bands(count: int, weights: Floats) -> Iterator[tuple[slice, _Band]]:
    """For all blocks of the `count` outputs; those that reach no end share their weights."""
    radius = len(weights) // 2
    inner: Floats | None = None
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        low, high = max(0, start - radius), min(count, stop + radius)
        is_inner = high - low == _BLOCK + 2 * radius
        if not is_inner or inner is None:
            band = _weights(np.arange(start, stop), low, high, count, weights)
            inner = band if is_inner else inner
        else:
            band = inner
        yield slice(start, stop), _Band(low, high, band)


def _weights(outputs: npt.NDArray[np.intp], low: int, high: int, count: int, weights: Floats) -> Floats:
    """Where the kernel reaches over an end, its weights fall on the mirrored inputs, which lie in low..high too."""
    radius, period = len(weights) // 2, max(1, 2 * (count - 1))
    sources = np.abs(outputs[:, None] + np.arange(-radius, radius + 1)) % period
    sources = np.where(sources >= count, period - sources, sources)
    band = np.zeros((len(outputs), high - low), np.float32)
    rows = np.broadcast_to(np.arange(len(outputs))[:, None], sources.shape)
    np.add.at(band, (rows, sources - low), np.broadcast_to(weights, sources.shape))
    return band
