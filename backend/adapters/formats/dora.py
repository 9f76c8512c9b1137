"""DoRA: another format's difference, after which rows (or columns) get lengths of their own. arXiv:2402.09353."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from backend.adapters.format import ALL_ROWS, Format, Part, Shapes

_Value = TypeVar("_Value", tuple[int, ...], Tensor)
_SCALES = frozenset(("dora_scale", "magnitude"))  # LyCORIS' name and PEFT's


def weight_decomposed(formats: Sequence[Format]) -> Format:
    """DoRA on top of any of these."""

    def inner(names: frozenset[str]) -> Format | None:
        return next((format for format in formats if format.recognise(names - _SCALES)), None)

    def chosen(shapes: Shapes) -> Format:
        found = inner(frozenset(shapes))
        assert found is not None  # recognised before
        return found

    def delta(part: Part, rows: slice) -> Tensor:
        """V = W + difference; strength (dora_scale V / |V| - W)."""
        tensors = {name: tensor for name, tensor in part.tensors.items() if name not in _SCALES}
        full = replace(part, tensors=tensors, strength=1.0)
        format = chosen({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        name, scale = _scale(part.tensors)
        is_by_row = _is_by_row(name, tuple(scale.shape), part.shape)
        wanted = rows if is_by_row else ALL_ROWS  # the length of a column takes all rows
        weight = part.weight(wanted)
        directed = weight + format.delta(full, wanted)
        if is_by_row:
            length = directed.flatten(1).norm(dim=1).view(-1, *[1] * (len(part.shape) - 1))
            scale = scale.reshape(-1)[wanted].view(length.shape)
        else:
            length = directed.transpose(0, 1).flatten(1).norm(dim=1).view(1, -1, *[1] * (len(part.shape) - 2))
            scale = scale.reshape(length.shape)
        factor = (scale / length).where(length > 0, 0)  # what has no direction stays without length
        change = part.strength * (factor * directed - weight)
        return change if is_by_row else change[rows]

    def fits(shapes: Shapes, shape: tuple[int, ...]) -> bool:
        rest = {name: value for name, value in shapes.items() if name not in _SCALES}
        name, scale = _scale(shapes)
        count = shape[0] if _is_by_row(name, scale, shape) else shape[1] if len(shape) > 1 else 0
        return math.prod(scale) == count and chosen(rest).fits(rest, shape)

    def is_by_rows(part: Part) -> bool:
        name, scale = _scale(part.tensors)
        inner_format = chosen({name: tuple(tensor.shape) for name, tensor in part.tensors.items()})
        return _is_by_row(name, tuple(scale.shape), part.shape) and inner_format.is_by_rows(part)

    def rank(shapes: Shapes) -> int | None:
        return chosen(shapes).rank(shapes)

    return Format(
        name="dora",
        label="DoRA",
        recognise=lambda names: bool(_SCALES & names) and inner(names) is not None,
        fits=fits,
        delta=delta,
        rank=rank,
        is_by_rows=is_by_rows,
        needs_weight=True,
    )


def _scale(tensors: Mapping[str, _Value]) -> tuple[str, _Value]:
    return next((name, tensors[name]) for name in sorted(_SCALES & tensors.keys()))


def _is_by_row(name: str, scale: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """PEFT's magnitudes belong to rows whatever their shape; LyCORIS' say by their shape what they belong to."""
    return name == "magnitude" or len(scale) < 2 or (scale[0] == shape[0] != 1)
