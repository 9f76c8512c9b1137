"""Where tiles lie that cover a picture, and how much each of them counts where they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Box:
    """A part of a picture, in its pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.width)

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.height)


def tile_boxes(width: int, height: int, size: int, overlap: int) -> list[Box]:
    """The fewest tiles of `size` x `size` that overlap by `overlap` or more, row by row; a shorter side is one tile's.

    Raises ValueError unless 0 <= overlap < size.
    """
    return [
        Box(left=columns.start, top=rows.start, width=len(columns), height=len(rows))
        for rows in spans(height, size, overlap)
        for columns in spans(width, size, overlap)
    ]


def spans(length: int, size: int, overlap: int) -> list[range]:
    """The fewest stretches of `size` that cover `length`, evenly: from edge to edge, overlapping by `overlap` or more.

    Raises ValueError unless 0 <= overlap < size.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"tiles of {size} cannot overlap by {overlap}")
    if length <= size:
        return [range(length)]
    count = -(-(length - overlap) // (size - overlap))
    starts = (round(index * (length - size) / (count - 1)) for index in range(count))
    return [range(start, start + size) for start in starts]


def fades(stretches: Sequence[range]) -> list[list[float]]:
    """How much each place of each stretch counts: less towards the ends that overlap others; 1 in all at every place.

    stretches: in order, and covering everything between their ends.
    """
    ramps = [_ramp(stretches, index) for index in range(len(stretches))]
    total = [0.0] * stretches[-1].stop
    for stretch, ramp in zip(stretches, ramps, strict=True):
        for place, weight in zip(stretch, ramp, strict=True):
            total[place] += weight
    return [
        [weight / total[place] for place, weight in zip(stretch, ramp, strict=True)]
        for stretch, ramp in zip(stretches, ramps, strict=True)
    ]


def _ramp(stretches: Sequence[range], index: int) -> list[float]:
    """Straight up over what is shared with the one before, and down over what is shared with the next."""
    stretch = stretches[index]
    rise = stretches[index - 1].stop - stretch.start if index else 0
    fall = stretch.stop - stretches[index + 1].start if index + 1 < len(stretches) else 0
    length = len(stretch)
    return [
        min(1.0, (place + 0.5) / rise if rise else 1.0, (length - place - 0.5) / fall if fall else 1.0)
        for place in range(length)
    ]
