"""Which module of an adapter belongs to which weight of a model, by names and shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from backend.adapters.format import Format, Shapes
from backend.adapters.formats.builtin import format_of
from backend.adapters.target import Target

ADDED_TO_BIAS = ("diff_b", "b_norm", "up_bias")
REPLACES_BIAS = "bias"
_SINGLE_NUMBERS = ("alpha", "on_input")
_OF_BIAS = frozenset((*ADDED_TO_BIAS, REPLACES_BIAS))


class Reason(Enum):
    """Why a module cannot be added. Values are for the user."""

    UNKNOWN_NAME = "the model has no layer of that name"
    OTHER_SHAPE = "the model's layer has another shape"
    UNKNOWN_FORMAT = "its tensors are of a format that is not read, or some of them are missing"
    NO_BIAS = "the model's layer has no bias"


@dataclass(frozen=True, kw_only=True)
class Match:
    """format: of what changes the weight; None where only the bias is changed. changes_bias: likewise."""

    module: str
    target: Target
    format: Format | None
    changes_bias: bool


@dataclass(frozen=True, kw_only=True)
class Unmatched:
    module: str
    reason: Reason


def match(module: str, shapes: Shapes, aliases: Mapping[str, Target]) -> Match | Unmatched:
    target = aliases.get(module)
    if target is None:
        return Unmatched(module=module, reason=Reason.UNKNOWN_NAME)
    of_weight = {name: shape for name, shape in shapes.items() if name not in _OF_BIAS}
    of_bias = [shape for name, shape in shapes.items() if name in _OF_BIAS]
    format = format_of(of_weight)
    if any(math.prod(shapes.get(name, ())) != 1 for name in _SINGLE_NUMBERS):
        return Unmatched(module=module, reason=Reason.UNKNOWN_FORMAT)
    if format is None and (of_weight.keys() - {"alpha"} or not of_bias):
        return Unmatched(module=module, reason=Reason.UNKNOWN_FORMAT)
    if format is not None and not format.fits(of_weight, target.shape):
        return Unmatched(module=module, reason=Reason.OTHER_SHAPE)
    if of_bias and not target.bias:
        return Unmatched(module=module, reason=Reason.NO_BIAS)
    if any(math.prod(shape) != target.shape[0] for shape in of_bias):
        return Unmatched(module=module, reason=Reason.OTHER_SHAPE)
    return Match(module=module, target=target, format=format, changes_bias=bool(of_bias))
