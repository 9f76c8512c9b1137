"""Rules that add what one model has learnt to another, number by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from backend.merging.rule import Operands, Parameter, Piece, Rule, Settings
from backend.merging.rules.elementwise import elementwise
from backend.merging.rules.parameters import ALPHA, STRENGTH, first_without_strength, these
from backend.merging.rules.sums import gram

_ROLES = ("A", "B", "C: what B was trained from")
_BOTH = ("A", "B", "C: what A and B were trained from")


def _add_difference(piece: Piece, values: Mapping[str, float]) -> Tensor:
    a, b, c = piece
    return a.add_(b.sub_(c), alpha=values["alpha"])


def _train_difference(piece: Piece, values: Mapping[str, float]) -> Tensor:
    a, b, c = piece
    learnt, apart = b - c, (b - a).abs_()
    scale = apart / (learnt.abs() + apart).clamp_(min=1e-38)
    return a.add_(learnt.mul_(scale), alpha=1.8 * values["alpha"])


def _multiply_difference(piece: Piece, values: Mapping[str, float]) -> Tensor:
    a, b, c = piece
    alpha, beta = min(1.0, max(0.0, values["alpha"])), values["beta"]  # 0 has no powers below 0
    way = torch.lerp(a, b, beta).sub_(c).sign_()
    return way.mul_((a - c).abs_().pow_(1 - alpha)).mul_((b - c).abs_().pow_(alpha)).add_(c)


def _similarity_add_difference(piece: Piece, values: Mapping[str, float]) -> Tensor:
    a, b, c = piece
    alpha = values["alpha"]
    larger = torch.maximum(a.abs(), b.abs())
    alike = torch.where(larger > 0, (a / larger) * (b / larger), 1.0)
    share = values["beta"] * (alike + 1) / 2
    return torch.lerp(a + alpha * (b - c), torch.lerp(a, b, alpha / 2), share)


def _clip_to_ab(piece: Piece, values: Mapping[str, float]) -> Tensor:
    a, b, c = piece
    return torch.clamp(a + values["alpha"] * (b - c), torch.minimum(a, b), torch.maximum(a, b))


def _extract(operands: Operands, settings: Settings) -> Iterator[Tensor]:
    # Likeness is that of the last dimension, which is cut where there is no other.
    for piece in operands.pieces() if len(operands.shape) > 1 else (operands.whole(),):
        yield _extracted(piece, settings.values)


def _extracted(piece: Piece, values: Mapping[str, float]) -> Tensor:
    base, b, c = piece
    b, c = b - base, c - base
    cosine = (b * c).sum(-1, keepdim=True) / (b.norm(dim=-1, keepdim=True) * c.norm(dim=-1, keepdim=True)).clamp_(
        min=1e-38
    )
    alike = ((cosine + 1) / 2).clamp_(0, 1).pow_(values["gamma"])
    return base + torch.lerp(b, c, values["alpha"]) * torch.lerp(alike, 1 - alike, values["beta"])


def _euclidean(operands: Operands, settings: Settings) -> Iterator[Tensor]:
    alpha = settings.values["alpha"]

    def parts(piece: Piece) -> tuple[Tensor, Tensor, Tensor]:
        a, b, c = piece
        return a - c, b - c, torch.lerp(a, b, alpha) - c

    lengths = gram(operands, parts)
    of_a, of_b, wanted = (lengths[i][i] ** 0.5 for i in range(3))

    def direction(piece: Piece) -> Tensor:
        a, b, line = parts(piece)
        size = ((1 - alpha) * _of_length_one(a, of_a).square() + alpha * _of_length_one(b, of_b).square()).clamp_(min=0)
        return size.sqrt_() * line.sign()

    length = gram(operands, lambda piece: (direction(piece),))[0][0] ** 0.5
    for piece in operands.pieces():
        yield piece[2] + direction(piece) * (wanted / length if length > 0 else 0.0)


def _of_length_one(part: Tensor, length: float) -> Tensor:
    return part / length if length > 0 else part


def _add_perpendicular(operands: Operands, settings: Settings) -> Iterator[Tensor]:
    products = gram(operands, lambda piece: (piece[0] - piece[2], piece[1] - piece[2]))
    share = products[0][1] / products[0][0] if products[0][0] > 0 else 0.0
    for a, b, c in operands.pieces():
        yield a + settings.values["alpha"] * ((b - c) - share * (a - c))


RULES = (
    Rule(
        name="add_difference",
        label="Add difference",
        formula="A + α·(B − C)",
        explanation="Adds to A what B learnt after C.",
        roles=_ROLES,
        parameters=these(STRENGTH),
        merge=elementwise(_add_difference),
        same_as=first_without_strength,
    ),
    Rule(
        name="train_difference",
        label="Train difference",
        formula="A + 1.8·α·(B − C)·|B − A| / (|B − C| + |B − A|)",
        explanation="As if A had been trained on what B learnt: the more A still lacks, the more it gets.",
        roles=_ROLES,
        parameters=these(STRENGTH),
        merge=elementwise(_train_difference),
        same_as=first_without_strength,
    ),
    Rule(
        name="add_perpendicular",
        label="Add perpendicular difference",
        formula="A + α·(b − a·(a·b) / ‖a‖²) with a = A − C, b = B − C",
        explanation="Adds only what B learnt that A did not learn, too.",
        roles=_BOTH,
        parameters=these(STRENGTH),
        merge=_add_perpendicular,
        same_as=first_without_strength,
    ),
    Rule(
        name="multiply_difference",
        label="Multiply difference",
        formula="C + sign((1 − β)·A + β·B − C)·|A − C|^(1 − α)·|B − C|^α",
        explanation="Keeps what both learnt, and less of what only one did.",
        roles=_BOTH,
        parameters=these(ALPHA, Parameter(name="beta", label="Beta", default=0.5, explanation="Whose signs count.")),
        merge=elementwise(_multiply_difference),
    ),
    Rule(
        name="euclidean_add_difference",
        label="Euclidean add difference",
        formula="C + d·‖l‖ / ‖d‖ with d = √((1 − α)·(a / ‖a‖)² + α·(b / ‖b‖)²)·sign(l), a = A − C, b = B − C, "
        "l = (1 − α)·a + α·b",
        explanation="Joins what A and B learnt by their squares, with the length that a weighted sum has.",
        roles=_BOTH,
        parameters=these(ALPHA),
        merge=_euclidean,
    ),
    Rule(
        name="similarity_add_difference",
        label="Similarity add difference",
        formula="(1 − s)·(A + α·(B − C)) + s·((1 − α/2)·A + α/2·B) with s = β·(A·B / max(|A|, |B|)² + 1) / 2",
        explanation="Adds the difference where A and B disagree, and mixes where they agree.",
        roles=_BOTH,
        parameters=these(
            STRENGTH,
            Parameter(name="beta", label="Beta", default=1.0, explanation="How much likeness counts."),
        ),
        merge=elementwise(_similarity_add_difference),
        same_as=first_without_strength,
    ),
    Rule(
        name="clip_to_ab",
        label="Add difference, clipped",
        formula="clip(A + α·(B − C), min(A, B), max(A, B))",
        explanation="Add difference that never leaves what lies between A and B.",
        roles=_ROLES,
        parameters=these(STRENGTH),
        merge=elementwise(_clip_to_ab),
        same_as=first_without_strength,
    ),
    Rule(
        name="extract",
        label="Extract what is alike",
        formula="A + ((1 − α)·b + α·c)·((1 − β)·s + β·(1 − s)) with b = B − A, c = C − A, s = ((cos(b, c) + 1) / 2)^γ",
        explanation="Adds to A what B and C learnt in common (β = 0), or what sets them apart (β = 1).",
        roles=("A: what B and C were trained from", "B", "C"),
        parameters=these(
            ALPHA,
            Parameter(name="beta", label="Beta", default=0.0, explanation="0: what is alike; 1: what is not."),
            Parameter(name="gamma", label="Gamma", default=1.0, maximum=10.0, explanation="How sharply that is told."),
        ),
        merge=_extract,
    ),
)
