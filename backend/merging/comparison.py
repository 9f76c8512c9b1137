"""How much two models differ, weight by weight."""

from __future__ import annotations

from dataclasses import dataclass

from backend.merging.rule import Operands
from backend.merging.rules.slerp import lengths_of


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Of one weight in two models. angle: in radians. distance: |B - A| / |A|, 0 where A is zero."""

    key: str
    angle: float
    distance: float


def compare(operands: Operands) -> Comparison:
    """The first two models."""
    lengths = lengths_of(operands)
    return Comparison(
        key=operands.key,
        angle=lengths.angle,
        distance=(lengths.difference / lengths.a) ** 0.5 if lengths.a > 0 else 0.0,
    )
