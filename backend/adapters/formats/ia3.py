"""IA3: rows or columns of the weight, scaled. arXiv:2205.05638."""

from __future__ import annotations

import math

from torch import Tensor

from backend.adapters.format import Format, Part, Shapes, always


def _delta(part: Part, rows: slice) -> Tensor:
    """strength W * w, w along the inputs or along the outputs."""
    factor, weight = part.tensors["weight"].flatten(), part.weight(rows)
    trailing = (1,) * (len(part.shape) - 2)
    if bool(part.tensors["on_input"]):
        return part.strength * weight * factor.view(1, -1, *trailing)
    return part.strength * weight * factor[rows].view(-1, 1, *trailing)


def _fits(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    """Which side it is for stands in a number of the file, so either is taken here."""
    return len(shape) >= 2 and math.prod(shapes["weight"]) in shape[:2]


IA3 = Format(
    name="ia3",
    label="IA3",
    recognise=lambda names: {"weight", "on_input"} <= names,
    fits=_fits,
    delta=_delta,
    is_by_rows=always,
    needs_weight=True,
)
