"""Taking whole rows of one model's weights and the others of another's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from backend.merging.rule import Operands, Parameter, Rule, Settings
from backend.merging.rules.parameters import these


def rows_of_b(alpha: float, beta: float, count: int) -> list[tuple[int, int]]:
    """Which rows are B's: a share alpha of them, beginning at beta, and going on at the top behind the last."""
    if alpha >= 1:
        return [(0, count)]
    begin, end = beta, alpha + beta
    if end <= 1:
        return [(int(begin * count), int(end * count))]
    return [(0, int((end - 1) * count)), (int(begin * count), count)]


def _tensor_sum(operands: Operands, settings: Settings) -> Iterator[Tensor]:
    spans = rows_of_b(settings.values["alpha"], settings.values["beta"], (operands.shape or (1,))[0])
    first = 0
    for a, b in operands.pieces():
        for begin, end in spans:
            inside = slice(max(0, begin - first), max(0, end - first))
            a[inside] = b[inside]
        first += a.shape[0]
        yield a


def _whole(values: Mapping[str, float]) -> int | None:
    return {0.0: 0, 1.0: 1}.get(values["alpha"])


RULES = (
    Rule(
        name="tensor_sum",
        label="Tensor sum",
        formula="rows ⌊β·n⌋ to ⌊(α + β)·n⌋ of B, going on at the top behind row n; the others of A",
        explanation="Every number is either A's or B's, and nothing is averaged.",
        roles=("A", "B"),
        parameters=these(
            Parameter(name="alpha", label="Share of B", default=0.5, explanation="How many of the rows are B's."),
            Parameter(name="beta", label="Begin", default=0.0, explanation="Where they begin, as a share of the rows."),
        ),
        merge=_tensor_sum,
        same_as=_whole,
    ),
)
