"""Which numbers of a weight are the largest, found without holding the weight: exactly, by counting bit patterns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Pieces = Callable[[], Iterator[Tensor]]

_HALF = 2**16


@dataclass(frozen=True)
class Threshold:
    """The largest numbers are those above `bits`, and the first `ties` of those that equal it.

    bits: of a float32 without its sign, which order as the numbers do. -1 keeps everything.
    """

    bits: int
    ties: int


def threshold(pieces: Pieces, count: int) -> Threshold:
    """That of the `count` numbers with the largest magnitudes. pieces: the weight from its beginning, float32."""
    if count <= 0:
        return Threshold(2**31 - 1, 0)
    upper = _counts(_bits(piece) >> 16 for piece in pieces())
    high, rest = _from_above(upper, count)
    if high < 0:
        return Threshold(-1, 0)
    lower = _counts(bits[bits >> 16 == high] & (_HALF - 1) for bits in map(_bits, pieces()))
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


def _counts(numbers: Iterator[Tensor]) -> Tensor:
    total = torch.zeros(_HALF, dtype=torch.int64)
    for piece in numbers:
        total += torch.bincount(piece, minlength=_HALF)
    return total


def _from_above(counts: Tensor, count: int) -> tuple[int, int]:
    """The bin in which the `count`th from above lies, and its rank in there; bin -1 when there are not so many."""
    above = counts.flip(0).cumsum(0)
    if int(above[-1]) < count:
        return -1, 0
    position = int(torch.searchsorted(above, count))
    before = int(above[position - 1]) if position else 0
    return len(counts) - 1 - position, count - before
