"""Bringing models to one scale before they are merged, weight by weight, and the result back to theirs.

Models that were merged or trained differently have weights of different spread; mixed as they are, the wider one wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backend.merging.rule import MergeFunction, Operands, Piece, Rule, Settings


@dataclass(frozen=True)
class Scale:
    """A weight w becomes (w - offset) / width. width: 0 when all of its numbers are the same."""

    offset: float
    width: float


Scales = Callable[[Operands], list[Scale]]
Measure = Callable[[Operands, Settings], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """A registered one. scales: of every model, for one weight; None leaves everything as it is."""

    name: str
    label: str
    explanation: str
    scales: Scales | None
    aliases: tuple[str, ...] = ()

    def applied_to(self, rule: Rule) -> Rule:
        """The rule, and its survey, for normalised models. The result gets a scale between theirs.

        A weight that has no spread in one of the models is merged as it is.
        """
        scales = self.scales
        if scales is None:
            return rule
        survey = None if rule.survey is None else replace(rule.survey, measure=_measuring(rule.survey.measure, scales))
        return replace(rule, merge=_merging(rule.merge, scales), survey=survey, narrow=None)


def _merging(merge: MergeFunction, scales: Scales) -> MergeFunction:
    def normalised(operands: Operands, settings: Settings) -> Iterator[Tensor]:
        found = scales(operands)
        if not _have_spread(found):
            yield from merge(operands, settings)
            return
        restored = _between(found, settings.values.get("alpha", 0.0))
        for piece in merge(_Normalised(operands, found), settings):
            yield piece.mul_(restored.width).add_(restored.offset)

    return normalised


def _measuring(measure: Measure, scales: Scales) -> Measure:
    def normalised(operands: Operands, settings: Settings) -> Sequence[float]:
        found = scales(operands)
        return measure(_Normalised(operands, found) if _have_spread(found) else operands, settings)

    return normalised


def _have_spread(scales: Sequence[Scale]) -> bool:
    return all(scale.width > 0 for scale in scales)


class _Normalised:
    """`Operands` on their scales."""

    def __init__(self, operands: Operands, scales: Sequence[Scale]) -> None:
        self._operands = operands
        self._scales = scales

    @property
    def key(self) -> str:
        return self._operands.key

    @property
    def shape(self) -> tuple[int, ...]:
        return self._operands.shape

    @property
    def count(self) -> int:
        return self._operands.count

    def pieces(self) -> Iterator[Piece]:
        for piece in self._operands.pieces():
            yield self._scaled(piece)

    def pieces_with_halo(self, rows: int) -> Iterator[tuple[Piece, slice]]:
        for piece, inside in self._operands.pieces_with_halo(rows):
            yield self._scaled(piece), inside

    def whole(self) -> Piece:
        return self._scaled(self._operands.whole())

    def _scaled(self, piece: Piece) -> Piece:
        return tuple(
            model.sub_(scale.offset).div_(scale.width) for model, scale in zip(piece, self._scales, strict=True)
        )


def _between(scales: Sequence[Scale], alpha: float) -> Scale:
    """Of two models, by alpha; of more, that of the first, to which the others add."""
    if len(scales) != 2:
        return scales[0]
    first, second = scales
    alpha = min(1.0, max(0.0, alpha))
    return Scale((1 - alpha) * first.offset + alpha * second.offset, (1 - alpha) * first.width + alpha * second.width)


def _by_spread(operands: Operands) -> list[Scale]:
    """Mean 0 and deviation 1, as a layer norm does it."""
    count, sums, squares = 0, [0.0] * operands.count, [0.0] * operands.count
    for piece in operands.pieces():
        count += piece[0].numel()
        for index, model in enumerate(piece):
            sums[index] += float(model.sum(dtype=torch.float64))
            squares[index] += float(model.double().square_().sum())
    means = [total / max(1, count) for total in sums]
    variances = [max(0.0, square / max(1, count) - mean**2) for square, mean in zip(squares, means, strict=True)]
    return [
        Scale(mean, variance**0.5 if variance > 1e-12 * mean**2 else 0.0)
        for mean, variance in zip(means, variances, strict=True)
    ]


def _by_range(operands: Operands) -> list[Scale]:
    """Least 0 and largest 1."""
    least, most = [float("inf")] * operands.count, [float("-inf")] * operands.count
    for piece in operands.pieces():
        for index, model in enumerate(piece):
            if model.numel():
                least[index] = min(least[index], float(model.min()))
                most[index] = max(most[index], float(model.max()))
    return [Scale(low, max(0.0, high - low)) for low, high in zip(least, most, strict=True)]


BUILTIN = (
    Normalisation(name="none", label="None", explanation="Models are merged as they are.", scales=None),
    Normalisation(
        name="layer_norm",
        label="Mean and spread",
        aliases=("mean_std",),
        explanation="Every weight has mean 0 and deviation 1 while models are merged; afterwards they lie between "
        "those of the models.",
        scales=_by_spread,
    ),
    Normalisation(
        name="min_max",
        label="Range",
        aliases=("minmax",),
        explanation="Every weight runs from 0 to 1 while models are merged; afterwards its range lies between theirs.",
        scales=_by_range,
    ),
)
