"""Turning one model's weights into the direction of another's (orthogonal Procrustes, Schoenemann 1966)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from backend.merging.rule import Operands, Parameter, Rule, Settings
from backend.merging.rules.parameters import these

_LARGEST = 4096  # side of a rotation: its decomposition takes minutes and a gigabyte beyond


def as_matrix(weight: Tensor) -> Tensor:
    """[rows, columns], of which the columns are turned: the smaller side. Of a kernel, its input channels."""
    matrix = weight.movedim(1, -1).flatten(0, -2) if weight.ndim > 2 else weight
    return matrix.T if matrix.shape[1] > matrix.shape[0] else matrix


def _as_weight(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    if len(shape) <= 2:
        return matrix.reshape(shape) if matrix.shape == shape else matrix.T
    moved = (shape[0], *shape[2:], shape[1])
    rows = matrix.numel() // shape[1]
    flat = matrix if matrix.shape == (rows, shape[1]) else matrix.T
    return flat.reshape(moved).movedim(-1, 1)


def rotation(a: Tensor, b: Tensor) -> Tensor:
    """The orthogonal [columns, columns] that brings a [rows, columns] nearest to b; both are centred."""
    u, _, vh = torch.linalg.svd(a.T.double() @ b.double())  # float32 would turn what is small at random
    return (u @ vh).float()


def _rotate(operands: Operands, settings: Settings) -> Iterator[Tensor]:
    alpha = settings.values["alpha"]
    shape = operands.shape
    if len(shape) < 2 or min(as_matrix(torch.empty(shape, device="meta")).shape) > _LARGEST:
        for a, b in operands.pieces():
            yield a.lerp_(b, alpha)
        return
    a, b = (as_matrix(weight) for weight in operands.whole())
    mean_a, mean_b = a.mean(0), b.mean(0)
    a, b = a - mean_a, b - mean_b
    turned = a @ rotation(a, b)
    yield _as_weight(turned.lerp_(b, alpha).add_(mean_b), shape)


RULES = (
    Rule(
        name="rotate",
        label="Rotate",
        formula="(1 − α)·(A − Ā)·Q + α·(B − B̄) + B̄ with Q = U·Vᵀ of the SVD of (A − Ā)ᵀ·(B − B̄)",
        explanation="Turns A's weights towards B's before mixing: for models with different ancestors. Takes minutes; "
        "biases and matrices of more than 4096 on both sides are mixed in a straight line.",
        roles=("A", "B"),
        parameters=these(Parameter(name="alpha", label="Alpha", default=0.0, explanation="0: A, turned; 1: B.")),
        merge=_rotate,
        same_as=lambda values: 1 if values["alpha"] == 1 else None,
    ),
)
