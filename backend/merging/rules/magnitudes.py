"""Which numbers of a weight are the largest, found without holding the weight: exactly, by counting bit patterns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Pieces = Callable[[], Iterator[Sequence[Tensor]]]  # of several weights, from their beginning; float32

_HALF = 2**16


@dataclass(frozen=True)
class Threshold:
    """The largest numbers are those above `bits`, and the first `ties` of those that equal it.

    bits: of a float32 without its sign, which order as the numbers do. -1 keeps everything.
    """

    bits: int
    ties: int


def thresholds(pieces: Pieces, counts: Sequence[int]) -> list[list[Threshold]]:
    """Of each weight, those of its `counts` largest numbers. All weights are read side by side, and twice."""
    upper = _sums([torch.bincount(_bits(part) >> 16, minlength=_HALF) for part in piece] for piece in pieces())
    found = [[_from_above(bins, count) for count in counts] for bins in upper]
    lower = _sums(
        [_low_counts(_bits(part), [high for high, _ in wanted]) for part, wanted in zip(piece, found, strict=True)]
        for piece in pieces()
    )
    return [
        [_threshold(high, bins, rest) for (high, rest), bins in zip(wanted, halves, strict=True)]
        for wanted, halves in zip(found, lower, strict=True)
    ]


def _sums(counts: Iterator[list[Tensor]]) -> list[Tensor]:
    total = next(counts, [])
    for found in counts:
        for sum_so_far, more in zip(total, found, strict=True):
            sum_so_far.add_(more)
    return total


def _low_counts(bits: Tensor, highs: Sequence[int]) -> Tensor:
    """How often each lower half comes with each of these upper halves: [upper halves, 65536]."""
    return torch.stack([torch.bincount(bits[bits >> 16 == high] & (_HALF - 1), minlength=_HALF) for high in highs])


def _threshold(high: int, lower: Tensor, rest: int) -> Threshold:
    if high < 0:
        return Threshold(-1, 0)
    if rest == 0:
        return Threshold(2**31 - 1, 0)
    low, ties = _from_above(lower, rest)
    return Threshold(high * _HALF + low, ties)


class Largest:
    """Tells, piece by piece in order, which numbers are among the largest."""

    def __init__(self, limit: Threshold) -> None:
        self._limit = limit
        self._ties = limit.ties

    def mask(self, piece: Tensor) -> Tensor:
        """Booleans of the piece's shape."""
        bits = _bits(piece)
        kept = bits > self._limit.bits
        if self._ties:
            equal = bits == self._limit.bits
            kept |= equal & (equal.cumsum(0) <= self._ties)
            self._ties = max(0, self._ties - int(equal.sum()))
        return kept.view(piece.shape)


def _bits(piece: Tensor) -> Tensor:
    return piece.abs().reshape(-1).contiguous().view(torch.int32)


def _from_above(counts: Tensor, count: int) -> tuple[int, int]:
    """The bin in which the `count`th from above lies, and its rank in there; bin -1 when there are not so many."""
    above = counts.flip(0).cumsum(0)
    if int(above[-1]) < count:
        return -1, 0
    position = int(torch.searchsorted(above, count))
    before = int(above[position - 1]) if position else 0
    return len(counts) - 1 - position, count - before
