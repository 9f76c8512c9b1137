"""The connected parts of a mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from backend.images.masks import Box

Ints = npt.NDArray[np.int64]


def regions(mask: Image.Image, limit: int = 64) -> tuple[Box, ...]:
    """The boxes around the connected parts of what is not 0 in `mask` (L), the largest first, at most `limit`.

    Pixels that touch at a corner are connected. Parts are compared by their pixels, equal ones from the top down.
    """
    return tuple(_box(runs) for runs in _parts(mask, limit))


def parts(mask: Image.Image, limit: int = 64) -> Iterator[Image.Image]:
    """The same parts as masks of the size of `mask`, each 255 in one of them."""
    for runs in _parts(mask, limit):
        box = _box(runs)
        inside = np.zeros((box.height, box.width + 1), np.int8)
        np.add.at(inside, (runs.rows - box.top, runs.starts - box.left), 1)
        np.add.at(inside, (runs.rows - box.top, runs.stops - box.left), -1)
        part = Image.new("L", mask.size)
        part.paste(Image.fromarray((255 * np.cumsum(inside, axis=1)[:, :-1]).astype(np.uint8)), box[:2])
        yield part


def _box(runs: _Runs) -> Box:
    return Box(int(runs.starts.min()), int(runs.rows[0]), int(runs.stops.max()), int(runs.rows[-1]) + 1)


def _parts(mask: Image.Image, limit: int) -> Iterator[_Runs]:
    """The runs of each connected part."""
    runs = _runs(np.asarray(mask) > 0)
    _, part = np.unique(_labels(len(runs.rows), *_touching(runs, mask.width)), return_inverse=True)
    order = np.argsort(part, kind="stable")
    ends = np.cumsum(np.bincount(part))
    areas = np.bincount(part, runs.stops - runs.starts)
    for index in np.argsort(-areas, kind="stable")[:limit]:
        own = order[ends[index - 1] if index else 0 : ends[index]]
        yield _Runs(runs.rows[own], runs.starts[own], runs.stops[own])


class _Runs(NamedTuple):
    """Neighbouring pixels of a row, row by row from the left; `stops` lie outside."""

    rows: Ints
    starts: Ints
    stops: Ints


def _runs(inside: npt.NDArray[np.bool_]) -> _Runs:
    changes = np.diff(np.pad(inside.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(changes == 1)
    return _Runs(rows, starts, np.nonzero(changes == -1)[1])


def _touching(runs: _Runs, width: int) -> tuple[Ints, Ints]:
    """All pairs of runs that touch, as two lists: those of the next row that touch a run follow one another."""
    stride = width + 2  # so that one number tells row and column
    below = (runs.rows + 1) * stride
    first = np.searchsorted(runs.rows * stride + runs.stops, below + runs.starts, "left")
    end = np.searchsorted(runs.rows * stride + runs.starts, below + runs.stops, "right")
    counts = end - first
    upper = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(upper)) - np.repeat(np.cumsum(counts) - counts, counts)
    return upper, np.repeat(first, counts) + within


def _labels(count: int, upper: Ints, lower: Ints) -> Ints:
    """For each run the first run that it is connected with.

    All pairs at once hang the later one's root under the earlier one's, then all look up their roots; until no pair
    differs, which takes about as many rounds as the count has binary digits.
    """
    labels = np.arange(count)
    while True:
        of_upper, of_lower = labels[upper], labels[lower]
        differ = of_upper != of_lower
        if not differ.any():
            return labels
        np.minimum.at(labels, np.maximum(of_upper, of_lower)[differ], np.minimum(of_upper, of_lower)[differ])
        while (labels != (further := labels[labels])).any():
            labels = further
