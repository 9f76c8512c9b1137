"""Sums over whole weights, in float64 of float32 pieces: the rules' norms, products and distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backend.merging.rule import Operands, Piece

Vectors = Callable[[Piece], Sequence[Tensor]]


def product(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.reshape(-1), b.reshape(-1)))


def gram(operands: Operands, vectors: Vectors) -> list[list[float]]:
    """The products of every two of the vectors that `vectors` makes of a piece, over the whole weight."""
    table: list[list[float]] = []
    for piece in operands.pieces():
        found = vectors(piece)
        table = table or [[0.0] * len(found) for _ in found]
        for row, first in enumerate(found):
            for column in range(row, len(found)):
                table[row][column] += product(first, found[column])
    return [[table[min(i, j)][max(i, j)] for j in range(len(table))] for i in range(len(table))]


def differences(piece: Piece) -> list[Tensor]:
    """From the first model, of all others."""
    base, *others = piece
    return [other - base for other in others]
