"""Rules that look at one number of each model at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from backend.merging.rule import MergeFunction, Operands, Piece, Settings

Formula = Callable[[Piece, Mapping[str, float]], Tensor]


def elementwise(formula: Formula) -> MergeFunction:
    """formula: the result of a piece, for which it may overwrite the piece; with the rule's numbers."""

    def merge(operands: Operands, settings: Settings) -> Iterator[Tensor]:
        for piece in operands.pieces():
            yield formula(piece, settings.values)

    return merge
