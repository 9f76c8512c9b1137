"""What a LoRA tool has made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LoraToolReport:
    """ranks: of every module that was written as a product. relative_error: of all these differences together, in the
    Frobenius norm: 0 for none. differences: modules written as plain differences.
    left_out: keys or modules that differ, or are in a file, and were not written.
    """

    ranks: Mapping[str, int]
    relative_error: float
    differences: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def relative(errors: float, norms: float) -> float:
    """From sums of squares."""
    return (errors / norms) ** 0.5 if norms else 0.0
