"""What adapters add to a packed weight: products of narrow matrices, which are kept beside it.

Numbers of eight bits and fewer cannot take in what an adapter adds, most of which would be rounded away. So the weight
stays as it is, and a layer (backend/nn/low_rank.py) adds the products to what it computes with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise

import torch
from torch import Tensor

_STEP = 64  # bytes: where tensors begin, which is what vector units and tensor cores like best
_MAX_POWER = 60  # so that no power of two that is computed with is too large for a float32


@dataclass(frozen=True, kw_only=True)
class Factors:
    """scale * up @ down, with up [rows, rank] and down [rank, width] in float32."""

    up: Tensor
    down: Tensor
    scale: float


@dataclass(frozen=True, kw_only=True)
class Product:
    """What one adapter adds to some rows of a weight, first and end of which are `rows`.

    read: its factors. Raises BadCheckpoint. within: which rows of `up` those are.
    """

    rows: tuple[int, int]
    rank: int
    read: Callable[[], Factors]
    within: tuple[int, int]


@dataclass(frozen=True)
class Placed:
    """Products in memory, as layers take them (backend/nn/low_rank.py).

    down: [ranks, width]. scales: one for each rank, float32. blocks: for some rows, first and end, and some of the
    ranks, first and end, `up` [rows, ranks].
    """

    down: Tensor
    scales: Tensor
    blocks: tuple[tuple[tuple[int, int], tuple[int, int], Tensor], ...]


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """All products that are added to a weight. width: of its rows. dtype: of the matrices where they are kept.

    They lie in memory as one piece: scales, all of `down` one below the other, and `up` for each range of rows. Every
    rank has numbers of a size that half precision holds well, and its scale has the rest.
    """

    width: int
    dtype: torch.dtype
    products: tuple[Product, ...]

    @property
    def num_bytes(self) -> int:
        return self._offsets[-1]

    @property
    def way(self) -> str:
        """Equal where equal bytes mean the same."""
        return f"{self.dtype} {[(product.rows, product.rank) for group in self._groups for product in group]}"

    def held_as(self, dtype: torch.dtype) -> LowRank:
        return replace(self, dtype=dtype)

    def joined(self, other: LowRank) -> LowRank:
        """Both, added to the same weight."""
        dtype = torch.promote_types(self.dtype, other.dtype)
        return replace(self, dtype=dtype, products=self.products + other.products)

    def cut(self, first: int, end: int) -> LowRank | None:
        """What is added to those rows alone; None for nothing."""
        parts = [part for product in self.products if (part := _cut(product, first, end)) is not None]
        return replace(self, products=tuple(parts)) if parts else None

    def read_into(self, out: Tensor) -> None:
        """Fill [num_bytes] of uint8. Raises BadCheckpoint."""
        placed = self.within(out)
        rank = 0
        for group, (_, (first, _), up) in zip(self._groups, placed.blocks, strict=True):
            for product in group:
                ranks = slice(rank, rank + product.rank)
                columns = up[:, ranks.start - first : ranks.stop - first]
                columns[:], placed.down[ranks], placed.scales[ranks] = _balanced(product)
                rank += product.rank

    def within(self, memory: Tensor) -> Placed:
        """Those bytes as matrices."""
        shapes = self._shapes
        scales, down, *ups = (
            memory[begin : begin + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
            for begin, (shape, dtype) in zip(self._offsets, shapes, strict=False)
        )
        ends = list(accumulate((up.shape[1] for up in ups), initial=0))
        spans = pairwise(ends)
        rows = (group[0].rows for group in self._groups)
        return Placed(down, scales, tuple(zip(rows, spans, ups, strict=True)))

    @property
    def _groups(self) -> list[list[Product]]:
        """Products for the same rows stand together, so that layers compute them as one."""
        by_rows = sorted(self.products, key=lambda product: product.rows)
        return [list(group) for _, group in groupby(by_rows, key=lambda product: product.rows)]

    @property
    def _shapes(self) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Of the scales, of `down`, and of `up` for each range of rows."""
        ranks = [sum(product.rank for product in group) for group in self._groups]
        heights = [high - low for low, high in (group[0].rows for group in self._groups)]
        ups = [((height, rank), self.dtype) for height, rank in zip(heights, ranks, strict=True)]
        return [((sum(ranks),), torch.float32), ((sum(ranks), self.width), self.dtype), *ups]

    @property
    def _offsets(self) -> list[int]:
        """Where each begins, and where all end."""
        lengths = (math.prod(shape) * dtype.itemsize for shape, dtype in self._shapes)
        return list(accumulate((-(-length // _STEP) * _STEP for length in lengths), initial=0))


def _cut(product: Product, first: int, end: int) -> Product | None:
    begin, stop = max(first, product.rows[0]), min(end, product.rows[1])
    if begin >= stop:
        return None
    low = product.within[0] + begin - product.rows[0]
    return replace(product, rows=(begin - first, stop - first), within=(low, low + stop - begin))


def _balanced(product: Product) -> tuple[Tensor, Tensor, Tensor]:
    """up, down and the scale of each rank, with lengths of `down` and largest numbers of `up` between 0.5 and 1.

    Only powers of two change over, so that nothing is rounded.
    """
    factors = product.read()
    of_down = _power(factors.down.norm(dim=1))
    of_up = _power(factors.up.abs().amax(dim=0))
    up = torch.ldexp(factors.up[slice(*product.within)], -of_up)
    scales = torch.ldexp(torch.full((product.rank,), factors.scale), of_up + of_down)
    return up, torch.ldexp(factors.down, -of_down[:, None]), scales


def _power(numbers: Tensor) -> Tensor:
    return torch.frexp(numbers).exponent.clamp(-_MAX_POWER, _MAX_POWER)
