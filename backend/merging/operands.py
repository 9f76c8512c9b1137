"""Weights in pieces: of files, of merges in merges, and of several models side by side as a rule sees them.

Pieces are some rows of a weight in float32, few enough to stay in the processor's cache while a rule works on them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from backend.merging.rule import Piece
from backend.weights.source import WeightSource

PIECE = 2**18  # numbers at a time: smaller, and threads wait for Python's lock; larger, and for the memory

Rows = tuple[int, int]  # the first, and that behind the last


class Buffer:
    """Memory for one piece at a time, which stays warm in the processor's cache."""

    def __init__(self) -> None:
        self._numbers = torch.empty(PIECE)

    def of(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """So many numbers, with anything in them; what was given before is overwritten."""
        if count * dtype.itemsize > self._numbers.numel() * self._numbers.itemsize:
            if count > 4 * PIECE:
                return torch.empty(count, dtype=dtype)  # a weight with giant rows, not to be kept
            self._numbers = torch.empty(-(-count * dtype.itemsize // 4))
        return self._numbers.view(dtype)[:count]


class Buffers(threading.local):
    """Buffers that each thread uses again and again: memory that is new costs more time than the arithmetic."""

    def __init__(self) -> None:
        self._free: list[Buffer] = []

    @contextmanager
    def lent(self) -> Generator[Buffer]:
        buffer = self._free.pop() if self._free else Buffer()
        try:
            yield buffer
        finally:
            self._free.append(buffer)


class Weight(Protocol):
    """One weight of one model. Nothing is read until its numbers are asked for.

    Rows are those of the first dimension; a single number has one.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def identity(self) -> str:
        """Equal identities mean equal numbers."""
        ...

    def windows(self, bounds: Iterable[Rows], buffers: Buffers) -> Iterator[Tensor]:
        """Rows in float32 [stop - start, *shape[1:]], contiguous; neither start nor stop ever goes back.

        What is given is the caller's until the next is asked for. It may lie in one of `buffers`.
        """
        ...

    def sources(self) -> Iterator[tuple[WeightSource, str]]:
        """Every tensor of a file that it is made of."""
        ...


@dataclass(frozen=True)
class StoredWeight:
    """A tensor of a source as it is."""

    source: WeightSource
    key: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.spec(self.key).shape

    @property
    def identity(self) -> str:
        return self.source.identity(self.key)

    def windows(self, bounds: Iterable[Rows], buffers: Buffers) -> Iterator[Tensor]:
        shape = self.shape or (1,)
        packing = self.source.packing(self.key)
        if packing is not None and packing.low_rank is None:
            rows = self.source.read_storage(self.key).view(-1, packing.row_bytes)
            for start, stop in bounds:
                yield packing.unpack(rows[start:stop], torch.float32)
            return
        stored = self.source.read(self.key).view(shape)
        width = math.prod(shape[1:])
        with buffers.lent() as buffer:
            window = torch.empty(0)
            for start, stop in bounds:
                # Whatever torch is asked for hands Python's lock to another thread: a view that is kept saves time.
                if window.shape[0] != stop - start:
                    window = buffer.of((stop - start) * width).view(stop - start, *shape[1:])
                yield window.copy_(stored[start:stop])

    def sources(self) -> Iterator[tuple[WeightSource, str]]:
        yield self.source, self.key


@dataclass(frozen=True)
class Columns:
    """The first of the second dimension of a weight: what a network reads that reads less."""

    whole: Weight
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.whole.shape[0], self.count, *self.whole.shape[2:])

    @property
    def identity(self) -> str:
        return f"{self.whole.identity} columns 0-{self.count}"

    def windows(self, bounds: Iterable[Rows], buffers: Buffers) -> Iterator[Tensor]:
        for rows in self.whole.windows(bounds, buffers):
            yield rows[:, : self.count].contiguous()

    def sources(self) -> Iterator[tuple[WeightSource, str]]:
        return self.whole.sources()


@dataclass(frozen=True)
class WithColumns:
    """A weight that is continued, in its second dimension, by the further columns of a wider one."""

    first: Weight
    wide: Weight

    @property
    def shape(self) -> tuple[int, ...]:
        return self.wide.shape

    @property
    def identity(self) -> str:
        return f"{self.first.identity} before {self.wide.identity}"

    def windows(self, bounds: Iterable[Rows], buffers: Buffers) -> Iterator[Tensor]:
        bounds = tuple(bounds)
        count = self.first.shape[1]
        for first, wide in zip(self.first.windows(bounds, buffers), self.wide.windows(bounds, buffers), strict=True):
            yield torch.cat((first, wide[:, count:]), dim=1)

    def sources(self) -> Iterator[tuple[WeightSource, str]]:
        yield from self.first.sources()
        yield from self.wide.sources()


@dataclass(frozen=True)
class Stacked:
    """Weights above one another: the rows of the first, then those of the next."""

    parts: tuple[Weight, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def identity(self) -> str:
        return " above ".join(part.identity for part in self.parts)

    def windows(self, bounds: Iterable[Rows], buffers: Buffers) -> Iterator[Tensor]:
        return in_windows((rows for part in self.parts for rows in pieces_of(part, buffers)), self.shape, bounds)

    def sources(self) -> Iterator[tuple[WeightSource, str]]:
        for part in self.parts:
            yield from part.sources()


class Aligned:
    """One weight in all models of a merge: what a rule gets (see `Operands`)."""

    def __init__(self, key: str, weights: Sequence[Weight], buffers: Buffers) -> None:
        self._key = key
        self._weights = tuple(weights)
        self._buffers = buffers

    @property
    def key(self) -> str:
        return self._key

    @property
    def shape(self) -> tuple[int, ...]:
        return self._weights[0].shape

    @property
    def count(self) -> int:
        return len(self._weights)

    def pieces(self) -> Iterator[Piece]:
        return self._windows(cuts(self.shape))

    def pieces_with_halo(self, rows: int) -> Iterator[tuple[Piece, slice]]:
        last = (self.shape or (1,))[0]
        bounds = cuts(self.shape)
        wider = [(max(0, start - rows), min(last, stop + rows)) for start, stop in bounds]
        for (start, stop), (first, _), piece in zip(bounds, wider, self._windows(wider), strict=True):
            yield piece, slice(start - first, stop - first)

    def whole(self) -> Piece:
        rows = (self.shape or (1,))[0]
        # Copies: the buffer of one is lent to the next as soon as it has been read.
        windows = (next(weight.windows([(0, rows)], self._buffers)) for weight in self._weights)
        return tuple(window.clone().view(self.shape) for window in windows)

    def _windows(self, bounds: Sequence[Rows]) -> Iterator[Piece]:
        return zip(*(weight.windows(bounds, self._buffers) for weight in self._weights), strict=True)


def cuts(shape: tuple[int, ...]) -> list[Rows]:
    """Whole rows, in order, of at most PIECE numbers together, or one row where that alone has more."""
    rows = (shape or (1,))[0]
    step = max(1, PIECE // max(1, math.prod(shape[1:])))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def pieces_of(weight: Weight, buffers: Buffers) -> Iterator[Tensor]:
    """All of a weight in order."""
    return weight.windows(cuts(weight.shape), buffers)


def in_windows(numbers: Iterable[Tensor], shape: tuple[int, ...], bounds: Iterable[Rows]) -> Iterator[Tensor]:
    """A weight that comes in pieces of any size, in windows. `numbers`: all of it in order, of any shapes.

    Raises ValueError when they do not come to the shape.
    """
    shape = shape or (1,)
    width = math.prod(shape[1:])
    bounds = tuple(bounds)
    if not bounds:
        return
    coming = iter(numbers)
    held, first = torch.empty(0), 0  # numbers that are there, and the place of the first of them
    for (start, stop), (next_start, _) in zip(bounds, (*bounds[1:], (bounds[-1][1], 0)), strict=True):
        held, first = _filled(held[start * width - first :], (stop - start) * width, coming), start * width
        window = held[: (stop - start) * width].view(stop - start, *shape[1:])
        yield window.clone() if next_start < stop else window  # the caller may overwrite what is needed again


def _filled(held: Tensor, count: int, coming: Iterator[Tensor]) -> Tensor:
    """At least `count` numbers: those that are held, and as many more as it takes."""
    parts, have = [held] if held.numel() else [], held.numel()
    while have < count:
        if parts:
            parts[-1] = parts[-1].clone()  # it may be overwritten when the next is made
        part = next(coming, None)
        if part is None:
            raise ValueError(f"a merge rule gave fewer numbers than the weight has: {count - have} are missing")
        parts.append(part.reshape(-1))
        have += part.numel()
    return parts[0] if len(parts) == 1 else torch.cat(parts or [held])


def first_not_finite(weight: Weight) -> tuple[Path, str] | None:
    """The file and the key of a tensor with NaN or infinity in it, of those that a weight is made of."""
    for source, key in weight.sources():
        if source.spec(key).dtype.is_floating_point and not all(
            bool(piece.isfinite().all()) for piece in pieces_of(StoredWeight(source, key), Buffers())
        ):
            return source.origin, key
    return None
