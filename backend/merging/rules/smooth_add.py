"""Add difference without its outliers: the difference is filtered as an image is, along all of its dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from backend.merging.rule import Operands, Rule, Settings
from backend.merging.rules.parameters import STRENGTH, first_without_strength, these

_RADIUS = 4  # of the gaussian: four standard deviations
_HALO = _RADIUS + 1  # and one number for the median


def smoothed(difference: Tensor) -> Tensor:
    """A median of three and then a gaussian of deviation 1 along every dimension; edges are reflected."""
    if difference.ndim == 0:
        return difference
    result = _median_of_three(difference)
    weights = [math.exp(-(offset**2) / 2) for offset in range(-_RADIUS, _RADIUS + 1)]
    for dimension in range(difference.ndim):
        total = torch.zeros_like(result)
        for offset, weight in zip(range(-_RADIUS, _RADIUS + 1), weights, strict=True):
            total.add_(_shifted(result, dimension, offset), alpha=weight / sum(weights))
        result = total
    return result


def _median_of_three(x: Tensor) -> Tensor:
    """Of the 3 ** dimensions numbers around each."""
    neighbours = [x]
    for dimension in range(x.ndim):
        neighbours = [_shifted(part, dimension, offset) for part in neighbours for offset in (-1, 0, 1)]
    return torch.stack(neighbours).median(dim=0).values


def _shifted(x: Tensor, dimension: int, offset: int) -> Tensor:
    """x[i + offset] along a dimension, reflected at its ends: ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ..."""
    size = x.shape[dimension]
    index = torch.arange(offset, size + offset).remainder(2 * size)
    return x.index_select(dimension, torch.where(index < size, index, 2 * size - 1 - index))


def _smooth_add(operands: Operands, settings: Settings) -> Iterator[Tensor]:
    # A piece is reflected at its own ends as if it were whole. What that spoils are the rows around it, which are cut.
    for (a, b, c), rows in operands.pieces_with_halo(_HALO):
        yield a[rows].add_(smoothed(b - c)[rows], alpha=settings.values["alpha"])


RULES = (
    Rule(
        name="smooth_add",
        label="Smooth add",
        formula="A + α·gauss₁(median₃(B − C))",
        explanation="Adds the difference without its outliers. Slow on convolutions: a median over 81 neighbours.",
        roles=("A", "B", "C: what B was trained from"),
        parameters=these(STRENGTH),
        merge=_smooth_add,
        same_as=first_without_strength,
    ),
)
