"""The largest singular values and vectors of a matrix, without more memory than a square of its shorter side."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.merging.lora_tools.rank_choice import RankBy, RankChoice

_ROWS = 1024  # of the longer side, that are made float64 at a time
_SMALLEST = 256  # the shorter side from which on an approximation is faster
_MOST_ROUNDS = 8  # of refinement
_TOLERANCE = 1e-5  # of all squares: what one more round of refinement may find when it is the last


@dataclass(frozen=True, kw_only=True)
class Factors:
    """A matrix of low rank as up @ down; both carry the roots of the singular values.

    up: [m, r]. down: [r, n]. norm: of the matrix that they stand for, and error: of what is missing (Frobenius).
    """

    up: Tensor
    down: Tensor
    norm: float
    error: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def factors_of(matrix: Tensor, choice: RankChoice) -> Factors:
    """The best approximation of a matrix [m, n], float32, of the rank that is chosen."""
    if matrix.shape[0] > matrix.shape[1]:
        flipped = factors_of(matrix.mT, choice)
        return Factors(up=flipped.down.mT, down=flipped.up.mT, norm=flipped.norm, error=flipped.error)
    norm = float(torch.linalg.vector_norm(matrix, dtype=torch.float64))
    vectors, values = _left(matrix, choice, norm)
    rank = choice.rank(values)
    rank = max(1, min(rank, int((values > 1e-12 * values[0]).sum())))  # nothing lies behind values of zero
    roots = values[:rank].sqrt().clamp_min(1e-30)
    up = vectors[:, :rank].float()
    down = up.mT @ matrix  # the projection is exact whatever the small singular values have lost
    return Factors(
        up=up * roots.float(),
        down=down / roots.float()[:, None],
        norm=norm,
        error=_distance(matrix, up, down),
    )


def product_factors(up: Tensor, down: Tensor, choice: RankChoice) -> Factors:
    """The best approximation of up [m, r] @ down [r, n], of which only [r, r] is ever decomposed. Exact in float64."""
    left, left_core = torch.linalg.qr(up.double())
    right, right_core = torch.linalg.qr(down.double().mT)
    u, values, vh = torch.linalg.svd(left_core @ right_core.mT)
    rank = choice.rank(values) if float(values[0]) else 1
    roots = values[:rank].sqrt()
    return Factors(
        up=(left @ (u[:, :rank] * roots)).float(),
        down=((roots[:, None] * vh[:rank]) @ right.mT).float(),
        norm=float(values.norm()),
        error=float(values[rank:].norm()),
    )


def _distance(matrix: Tensor, up: Tensor, down: Tensor) -> float:
    """Measured, for the difference of two large norms would tell nothing of a small one."""
    parts = zip(matrix.split(_ROWS, dim=1), down.split(_ROWS, dim=1), strict=True)
    missing = (float(torch.linalg.vector_norm(part - up @ approximated)) for part, approximated in parts)
    return math.hypot(*missing)


def _left(matrix: Tensor, choice: RankChoice, norm: float) -> tuple[Tensor, Tensor]:
    """Left singular vectors [m, k] and values [k], the largest first, of a matrix that is not higher than wide."""
    limit = choice.limit
    if choice.by is RankBy.RANK and limit and matrix.shape[0] >= max(_SMALLEST, 4 * _columns(limit)):
        found = _approximate(matrix, limit, norm)
        if found is not None:
            return found
    return _exact(matrix)


def _exact(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """From matrix @ matrix^T in float64, which keeps eight digits of every value that matters."""
    square = torch.zeros(matrix.shape[0], matrix.shape[0], dtype=torch.float64)
    for part in matrix.split(_ROWS, dim=1):
        wide = part.double()
        square.addmm_(wide, wide.mT)
    squares, vectors = torch.linalg.eigh(square)
    return vectors.flip(1), squares.flip(0).clamp_min(0).sqrt()


def _columns(rank: int) -> int:
    """How many directions are followed, so that those that are wanted are found soon."""
    return 2 * rank + 16


def _approximate(matrix: Tensor, rank: int, norm: float) -> tuple[Tensor, Tensor] | None:
    """Subspace iteration (Halko et al. 2011, arXiv:0909.4061), until there is nothing more to find; None if it goes on.

    Where many values are nearly the same, which of their vectors are found is left to chance, and makes no difference.
    """
    start = torch.randn(matrix.shape[1], _columns(rank), generator=torch.Generator().manual_seed(0))
    basis, kept = torch.linalg.qr(matrix @ start)[0], 0.0
    for _ in range(_MOST_ROUNDS):
        image = basis.mT @ matrix
        squares, vectors = torch.linalg.eigh((image @ image.mT).double())
        before, kept = kept, float(squares[-rank:].sum())
        if kept - before <= _TOLERANCE * norm**2:
            found = basis @ vectors.flip(1)[:, :rank].float()
            return found, squares.flip(0)[:rank].clamp_min(0).sqrt()
        basis = torch.linalg.qr(matrix @ image.mT)[0]
    return None
