"""Add difference without its outliers: the difference is filtered as an image is, along all of its dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

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
        for neighbours, weight in zip(_shifted(result, dimension, _RADIUS), weights, strict=True):
            total.add_(neighbours, alpha=weight / sum(weights))
        result = total
    return result


def _median_of_three(x: Tensor) -> Tensor:
    """Of the 3 ** dimensions numbers around each."""
    if x.ndim == 1:
        return _sorted_three(_shifted(x, 0, 1))[1]
    if x.ndim == 2:
        # The median of nine is that of the largest of the least, the median of the medians and the least of the
        # largest of three threes: a fifth of the time of sorting.
        least, middle, largest = (_shifted(part, 1, 1) for part in _sorted_three(_shifted(x, 0, 1)))
        return _sorted_three(
            (_sorted_three(least)[2], _sorted_three(middle)[1], _sorted_three(largest)[0]),
        )[1]
    neighbours = [x]
    for dimension in range(x.ndim):
        neighbours = [shifted for part in neighbours for shifted in _shifted(part, dimension, 1)]
    return torch.stack(neighbours).median(dim=0).values


def _sorted_three(numbers: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The least, the middle and the largest of three, number by number."""
    a, b, c = numbers
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    return torch.minimum(low, c), torch.maximum(low, torch.minimum(high, c)), torch.maximum(high, c)


def _shifted(x: Tensor, dimension: int, reach: int) -> list[Tensor]:
    """x[i - reach] to x[i + reach] along a dimension, reflected at its ends: ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ..."""
    size = x.shape[dimension]
    index = torch.arange(-reach, size + reach).remainder(2 * size)
    longer = x.index_select(dimension, torch.where(index < size, index, 2 * size - 1 - index))
    return [longer.narrow(dimension, first, size) for first in range(2 * reach + 1)]


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
