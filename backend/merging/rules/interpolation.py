"""Rules between models: what lies on the straight line, and other means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from backend.merging.rule import Operands, Parameter, Piece, Rule, Settings
from backend.merging.rules.elementwise import elementwise
from backend.merging.rules.parameters import ALPHA, LETTERS, first_or_second, one_each, these
from backend.merging.rules.sums import gram

_BETA = Parameter(name="beta", label="Beta", default=0.5, explanation="The share of C.")


def between(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) a + alpha b, in the memory of `a`."""
    return a.lerp_(b, alpha)


def _lerp(piece: Piece, values: Mapping[str, float]) -> Tensor:
    a, b = piece
    return between(a, b, values["alpha"])


def _narrow_lerp(piece: Piece, values: Mapping[str, float], out: Tensor) -> Tensor:
    return torch.lerp(piece[0], piece[1], values["alpha"], out=out)


def _sum_twice(piece: Piece, values: Mapping[str, float]) -> Tensor:
    a, b, c = piece
    return between(between(a, b, values["alpha"]), c, values["beta"])


def _triple_sum(piece: Piece, values: Mapping[str, float]) -> Tensor:
    a, b, c = piece
    alpha, beta = values["alpha"], values["beta"]
    return a.mul_(1 - alpha - beta).add_(b, alpha=alpha).add_(c, alpha=beta)


def _first_of_three(values: Mapping[str, float]) -> int | None:
    match values["alpha"], values["beta"]:
        case 0.0, 0.0:
            return 0
        case 1.0, 0.0:
            return 1
        case _, 1.0:
            return 2
        case _:
            return None


def _first_of_triple(values: Mapping[str, float]) -> int | None:
    return {(0.0, 0.0): 0, (1.0, 0.0): 1, (0.0, 1.0): 2}.get((values["alpha"], values["beta"]))


def _weighted_subtraction(piece: Piece, values: Mapping[str, float]) -> Tensor:
    a, b = piece
    share = min(values["alpha"] * values["beta"], 1 - 1e-3)
    return a.sub_(b, alpha=share).div_(1 - share)


def _without_b(values: Mapping[str, float]) -> int | None:
    return 0 if values["alpha"] * values["beta"] == 0 else None


def _geometric(piece: Piece, values: Mapping[str, float]) -> Tensor:
    """Where signs differ there is no mean of this kind, and the straight line is taken."""
    a, b = piece
    alpha = values["alpha"]
    size = a.abs().pow(1 - alpha).mul_(b.abs().pow(alpha)).copysign_(a)
    return torch.where(a * b > 0, size, torch.lerp(a, b, alpha))


def _average(piece: Piece, values: Mapping[str, float]) -> Tensor:
    weights = [values[f"weight_{letter}"] for letter in LETTERS[: len(piece)]]
    total = sum(weights)
    if abs(total) < 1e-9:
        return piece[0]
    result = piece[0].mul_(weights[0] / total)
    for model, weight in zip(piece[1:], weights[1:], strict=True):
        result.add_(model, alpha=weight / total)
    return result


def _only_one(values: Mapping[str, float]) -> int | None:
    weights = [values[f"weight_{letter}"] for letter in LETTERS if f"weight_{letter}" in values]
    having = [index for index, weight in enumerate(weights) if weight]
    return having[0] if len(having) == 1 else 0 if not having else None


def _nearswap(piece: Piece, values: Mapping[str, float]) -> Tensor:
    a, b = piece
    share = (values["threshold"] / (a - b).abs_().clamp_(min=1e-38)).clamp_(0, 1)
    return a + share * (b - a)


def _norm_preserving(operands: Operands, settings: Settings) -> Iterator[Tensor]:
    alpha = settings.values["alpha"]
    squares = gram(operands, lambda piece: (piece[0], piece[1], torch.lerp(piece[0], piece[1], alpha)))
    wanted = (1 - alpha) * squares[0][0] ** 0.5 + alpha * squares[1][1] ** 0.5
    length = squares[2][2] ** 0.5
    for a, b in operands.pieces():
        result = between(a, b, alpha)
        yield result.mul_(wanted / length) if length > 0 else result


RULES = (
    Rule(
        name="lerp",
        label="Weighted sum (LERP)",
        aliases=("weighted_sum",),
        formula="(1 − α)·A + α·B",
        explanation="A straight line from A to B: the usual mixture.",
        roles=("A", "B"),
        parameters=these(ALPHA),
        merge=elementwise(_lerp),
        narrow=_narrow_lerp,
        same_as=first_or_second,
    ),
    Rule(
        name="sum_twice",
        label="Sum twice",
        formula="(1 − β)·((1 − α)·A + α·B) + β·C",
        explanation="Mixes A with B, and the result with C.",
        roles=("A", "B", "C"),
        parameters=these(ALPHA, _BETA),
        merge=elementwise(_sum_twice),
        same_as=_first_of_three,
    ),
    Rule(
        name="triple_sum",
        label="Triple sum",
        formula="(1 − α − β)·A + α·B + β·C",
        explanation="Mixes three models at once; α + β above 1 takes A away.",
        roles=("A", "B", "C"),
        parameters=these(ALPHA, _BETA),
        merge=elementwise(_triple_sum),
        same_as=_first_of_triple,
    ),
    Rule(
        name="n_average",
        label="Average of many",
        aliases=("mean", "n_model_mean"),
        formula="Σ wᵢ·Mᵢ / Σ wᵢ",
        explanation="The mean of any number of models, each with a weight.",
        roles=("A", "B"),
        extra_models=14,
        parameters=one_each,
        merge=elementwise(_average),
        same_as=_only_one,
    ),
    Rule(
        name="norm_preserving_lerp",
        label="Weighted sum that keeps its length",
        formula="m·((1 − α)·‖A‖ + α·‖B‖) / ‖m‖ with m = (1 − α)·A + α·B",
        explanation="A straight line without the loss of contrast that many merges in a row bring.",
        roles=("A", "B"),
        parameters=these(ALPHA),
        merge=_norm_preserving,
        same_as=first_or_second,
    ),
    Rule(
        name="weighted_subtraction",
        label="Weighted subtraction",
        formula="(A − α·β·B) / (1 − α·β)",
        explanation="Takes B out of A: undoes a weighted sum in which B had the share α·β.",
        roles=("A", "B"),
        parameters=these(ALPHA, Parameter(name="beta", label="Beta", default=0.5, explanation="Multiplies alpha.")),
        merge=elementwise(_weighted_subtraction),
        same_as=_without_b,
    ),
    Rule(
        name="geometric",
        label="Geometric mean",
        formula="|A|^(1 − α)·|B|^α with the sign of A; (1 − α)·A + α·B where the signs of A and B differ",
        explanation="Keeps what is small in either model small.",
        roles=("A", "B"),
        parameters=these(ALPHA),
        merge=elementwise(_geometric),
        same_as=first_or_second,
    ),
    Rule(
        name="nearswap",
        label="Near swap",
        formula="A + clip(t / |A − B|, 0, 1)·(B − A)",
        explanation="Takes B where it is near A, and a step of t towards it elsewhere.",
        roles=("A", "B"),
        parameters=these(
            Parameter(
                name="threshold",
                label="Threshold t",
                default=0.001,
                explanation="How far a number may move.",
            )
        ),
        merge=elementwise(_nearswap),
        same_as=lambda values: 0 if values["threshold"] == 0 else None,
    ),
)
