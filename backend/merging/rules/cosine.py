"""Mixing by likeness: where two models are alike the first is kept, elsewhere the second is taken.

As in supermerger's "cosineA" and "cosineB": the likeness of a column is the mean of its own cosine and of that of the
whole weight, on a scale from the least to the most alike column of the whole model.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from backend.merging.rule import MergeFunction, Operands, Parameter, Rule, Settings, Survey
from backend.merging.rules.parameters import these

_TRIM = 0.01  # the share of all likenesses at each end that does not count

Likeness = Callable[[Operands], Tensor]


def _column_sums(operands: Operands) -> tuple[Tensor, Tensor, Tensor]:
    """a * b, a * a and b * b, float64, summed over the first dimension."""
    width = operands.shape[1:]
    sums = tuple(torch.zeros(width, dtype=torch.float64) for _ in range(3))
    for a, b in operands.pieces():
        first, second = a.double(), b.double()
        for total, term in zip(sums, (first * second, first * first, second * second), strict=True):
            total += term.sum(0)
    return sums[0], sums[1], sums[2]


def _cosines(products: Tensor, of_a: Tensor, of_b: Tensor) -> Tensor:
    return products / (of_a.sqrt() * of_b.sqrt()).clamp(min=1e-300)


def by_columns(operands: Operands) -> Tensor:
    """Each column counts the same, however long it is."""
    columns = _cosines(*_column_sums(operands))
    return (columns + columns.mean()) / 2


def by_size(operands: Operands) -> Tensor:
    sums = _column_sums(operands)
    return (_cosines(*sums) + _cosines(*(part.sum() for part in sums))) / 2


def survey_of(likeness: Likeness) -> Survey:
    def measure(operands: Operands, _: Settings) -> Sequence[float]:
        return array("d", likeness(operands).flatten().tolist())

    return Survey(measure=measure, combine=limits)


def limits(measured: Sequence[Sequence[float]]) -> Mapping[str, float]:
    """The least and the greatest likeness after one in a hundred was left out at each end."""
    if not any(len(numbers) for numbers in measured):
        return {"least": -1.0, "most": 1.0}
    ordered = torch.cat([torch.tensor(numbers, dtype=torch.float64) for numbers in measured]).sort().values
    last = len(ordered) - 1
    low, high = int(_TRIM * last), last - int(_TRIM * last)
    return {"least": float(ordered[low]), "most": float(ordered[high])}


def mixed_by(likeness: Likeness) -> MergeFunction:
    def merge(operands: Operands, settings: Settings) -> Iterator[Tensor]:
        least, most = settings.statistics["least"], settings.statistics["most"]
        scale = max(most - least, 1e-12)
        share = (((likeness(operands) - least) / scale) - settings.values["alpha"]).clamp(0, 1).float()
        for a, b in operands.pieces():
            yield torch.lerp(b, a, share.expand_as(a))

    return merge


_PARAMETERS = these(
    Parameter(
        name="alpha",
        label="Alpha",
        default=0.0,
        minimum=-1.0,
        explanation="Shifts the balance towards B. At 0 the result is a mixture, not A; at 1 it is B.",
    )
)


def _second(values: Mapping[str, float]) -> int | None:
    return 1 if values["alpha"] >= 1 else None


RULES = (
    Rule(
        name="cosine_a",
        label="Cosine A",
        formula="k·A + (1 − k)·B with k = clip((s − min s) / (max s − min s) − α, 0, 1), s = (cos of the column + "
        "their mean) / 2",
        explanation="Keeps A's structure and takes B's details; α = 0 is not A.",
        roles=("A", "B"),
        parameters=_PARAMETERS,
        merge=mixed_by(by_columns),
        same_as=_second,
        survey=survey_of(by_columns),
    ),
    Rule(
        name="cosine_b",
        label="Cosine B",
        formula="k·A + (1 − k)·B with k = clip((s − min s) / (max s − min s) − α, 0, 1), s = (cos of the column + "
        "cos of the weight) / 2",
        explanation="As cosine A, with large columns counting more; α = 0 is not A.",
        roles=("A", "B"),
        parameters=_PARAMETERS,
        merge=mixed_by(by_size),
        same_as=_second,
        survey=survey_of(by_size),
    ),
)
