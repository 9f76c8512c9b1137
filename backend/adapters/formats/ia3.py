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


def _peft_delta(part: Part, rows: slice) -> Tensor:
    """strength W * (l - 1), l along the outputs [out, 1, ...] or along the inputs [1, in, ...]."""
    factor, weight = part.tensors["ia3_l"] - 1, part.weight(rows)
    if _is_by_row(tuple(factor.shape), part.shape):
        return part.strength * weight * factor.reshape(-1)[rows].view(-1, *[1] * (len(part.shape) - 1))
    return part.strength * weight * factor.reshape(1, -1, *[1] * (len(part.shape) - 2))


def _is_by_row(factor: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """PEFT writes those of convolutions as [1, n, 1, 1] on either side; where both are as long it is the outputs'."""
    is_column = len(factor) == 2 and factor[0] == 1 != shape[0]
    return math.prod(factor) == shape[0] and not is_column


def _peft_fits(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and len(shapes["ia3_l"]) >= 2 and math.prod(shapes["ia3_l"]) in shape[:2]


def _scales_bias(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    """PEFT scales outputs with their bias."""
    return _is_by_row(shapes["ia3_l"], shape)


IA3 = Format(
    name="ia3",
    label="IA3",
    recognise=lambda names: {"weight", "on_input"} <= names,
    fits=_fits,
    delta=_delta,
    is_by_rows=always,
    needs_weight=True,
)
PEFT_IA3 = Format(
    name="peft-ia3",
    label="IA3 of PEFT",
    recognise=lambda names: "ia3_l" in names,
    fits=_peft_fits,
    delta=_peft_delta,
    is_by_rows=always,
    needs_weight=True,
    scales_bias=_scales_bias,
)
