"""Means of several models that look at how far whole weights lie apart, or at how much each number matters.

Model stock: Jang et al. 2024, arXiv 2403.19522. Geometric median: Weiszfeld 1937. Fisher: Matena and Raffel 2022,
arXiv 2111.09832.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from backend.merging.rule import Operands, Piece, Rule, Settings
from backend.merging.rules.elementwise import elementwise
from backend.merging.rules.parameters import ALPHA, first_or_second, these
from backend.merging.rules.sums import differences, gram

_ITERATIONS = 100
_NEAR = 1e-6


def _model_stock(operands: Operands, _: Settings) -> Iterator[Tensor]:
    products = gram(operands, differences)
    count = len(products)
    lengths = [max(products[i][i], 0.0) ** 0.5 for i in range(count)]
    pairs = [products[i][j] / max(lengths[i] * lengths[j], 1e-300) for i in range(count) for j in range(i + 1, count)]
    cosine = sum(pairs) / len(pairs)
    below = 1 + (count - 1) * cosine
    share = count * cosine / below if cosine > 0 and below > _NEAR else 0.0
    for base, *others in operands.pieces():
        yield torch.stack(others).mean(0).sub_(base).mul_(share).add_(base)


def _geometric_median(operands: Operands, _: Settings) -> Iterator[Tensor]:
    weights = _median_weights(gram(operands, differences))
    for piece in operands.pieces():
        yield _weighted(piece, weights)


def _median_weights(products: Sequence[Sequence[float]]) -> list[float]:
    """The share of each model in the point whose distances to all have the least sum.

    Distances of mixtures follow from those between the models: |sum w_i M_i - M_j|^2 = sum_i w_i d_ij - half of
    sum_ik w_i w_k d_ik with squared distances d, so that the weights are read once.
    """
    count = len(products) + 1
    # The first model is the origin of the differences that `products` are of.
    inner = torch.zeros(count, count, dtype=torch.float64)
    inner[1:, 1:] = torch.tensor(products, dtype=torch.float64)
    squares = inner.diagonal()[:, None] + inner.diagonal()[None] - 2 * inner
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    for _ in range(_ITERATIONS):
        distances = (squares @ weights - weights @ squares @ weights / 2).clamp(min=0).sqrt()
        weights = 1 / distances.clamp(min=_NEAR)
        weights /= weights.sum()
    return weights.tolist()


def _weighted(piece: Piece, weights: Sequence[float]) -> Tensor:
    result = piece[0].mul_(weights[0])
    for model, weight in zip(piece[1:], weights[1:], strict=True):
        result.add_(model, alpha=weight)
    return result


def _fisher(piece: Piece, values: Mapping[str, float]) -> Tensor:
    a, b, of_a, of_b = piece
    alpha = min(1.0, max(0.0, values["alpha"]))  # outside, the sum of the weights may be nothing
    weight_a, weight_b = (1 - alpha) * of_a.abs(), alpha * of_b.abs()
    total = weight_a + weight_b
    # Where neither counts, the straight line: there is nothing to weigh by.
    return torch.lerp(a, b, torch.where(total > 0, weight_b / total, alpha))


RULES = (
    Rule(
        name="model_stock",
        label="Model stock",
        formula="t·mean(M) + (1 − t)·A with t = n·c / (1 + (n − 1)·c), c = mean cosine of the Mᵢ − A; A where c < 0",
        explanation="Where the mean of fine-tunes of A should lie, judged by the angles between them. No numbers to "
        "choose.",
        roles=("A: what the others were trained from", "B", "C"),
        extra_models=13,
        parameters=these(),
        merge=_model_stock,
    ),
    Rule(
        name="geometric_median",
        label="Geometric median",
        formula="the point x with the least Σ ‖x − Mᵢ‖ (Weiszfeld, 100 iterations)",
        explanation="A mean that one odd model among several moves little.",
        roles=("A", "B", "C"),
        extra_models=13,
        parameters=these(),
        merge=_geometric_median,
    ),
    Rule(
        name="fisher",
        label="Fisher",
        formula="((1 − α)·F_A·A + α·F_B·B) / ((1 − α)·F_A + α·F_B)",
        explanation="Weighs every number by how much it matters to its model: two files with that, in the layout of "
        "the models, are needed.",
        roles=("A", "B", "Fisher information of A", "Fisher information of B"),
        parameters=these(ALPHA),
        merge=elementwise(_fisher),
        same_as=first_or_second,
    ),
)
