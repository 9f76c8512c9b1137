"""A difference stored as it is, and a weight that takes the place of the model's."""

from __future__ import annotations

import math

from torch import Tensor

from backend.adapters.format import Format, Part, Shapes, always

_DIFFERENCES = ("diff", "w_norm")
_REPLACEMENTS = ("set_weight", "scale", "weight")


def _first(names: tuple[str, ...], found: frozenset[str]) -> str:
    return next(name for name in names if name in found)


def _difference(part: Part, rows: slice) -> Tensor:
    return part.strength * part.tensors[_first(_DIFFERENCES, frozenset(part.tensors))].reshape(part.shape)[rows]


def _replacement(part: Part, rows: slice) -> Tensor:
    new = part.tensors[_first(_REPLACEMENTS, frozenset(part.tensors))].reshape(part.shape)
    return part.strength * (new[rows] - part.weight(rows))


def _has_as_many(names: tuple[str, ...], shapes: Shapes, shape: tuple[int, ...]) -> bool:
    found = shapes[_first(names, frozenset(shapes))]
    return math.prod(found) == math.prod(shape) and (not shape or found[:1] == shape[:1])


def _replaces(names: frozenset[str]) -> bool:
    """A plain "weight" with nothing that says otherwise: norms in FLUX's control LoRAs are stored so."""
    return bool(names & set(_REPLACEMENTS)) and "on_input" not in names


FULL = Format(
    name="full",
    label="full difference",
    recognise=lambda names: bool(names & set(_DIFFERENCES)),
    fits=lambda shapes, shape: _has_as_many(_DIFFERENCES, shapes, shape),
    delta=_difference,
    is_by_rows=always,
)
REPLACEMENT = Format(
    name="replacement",
    label="replaced weight",
    recognise=_replaces,
    fits=lambda shapes, shape: _has_as_many(_REPLACEMENTS, shapes, shape),
    delta=_replacement,
    is_by_rows=always,
    needs_weight=True,
)
