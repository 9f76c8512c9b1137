"""Which module of an adapter belongs to which weight of a model, by names and shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from backend.adapters.format import Format, Shapes
from backend.adapters.formats.builtin import format_of
from backend.adapters.formats.control_lora import CONTROL_LORA
from backend.adapters.formats.lora import LORA
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
    NO_DOWN = "its down is not in the file, as when LoRA-FA was saved without what it kept frozen"
    NO_UP = "its up is not in the file, and what was not trained adds nothing"
    EMPTY = "its tensors are empty: a rank of 0"
    NO_NUMBERS = "its numbers are integers or complex ones, which no LoRA is made of"
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
    if reason := _incomplete(of_weight, format, has_bias=bool(of_bias)):
        return Unmatched(module=module, reason=reason)
    if format is LORA and target.takes_latents and CONTROL_LORA.fits(of_weight, target.shape):
        format = CONTROL_LORA
    if format is not None and not format.fits(of_weight, target.shape):
        return Unmatched(module=module, reason=Reason.OTHER_SHAPE)
    if of_bias and not target.bias:
        return Unmatched(module=module, reason=Reason.NO_BIAS)
    if any(math.prod(shape) != target.shape[0] for shape in of_bias):
        return Unmatched(module=module, reason=Reason.OTHER_SHAPE)
    scales_bias = bool(target.bias) and format is not None and format.scales_bias(of_weight, target.shape)
    return Match(module=module, target=target, format=format, changes_bias=bool(of_bias) or scales_bias)


def _incomplete(of_weight: Shapes, format: Format | None, *, has_bias: bool) -> Reason | None:
    """What is wrong with a module's tensors by themselves; None for nothing."""
    names = of_weight.keys() - {"alpha"}
    if any(not math.prod(of_weight[name]) for name in names):
        return Reason.EMPTY
    if any(math.prod(of_weight.get(name, ())) != 1 for name in _SINGLE_NUMBERS):
        return Reason.UNKNOWN_FORMAT
    if format is None and "up" in names:
        return Reason.NO_DOWN
    if format is None and "down" in names:
        return Reason.NO_UP
    return Reason.UNKNOWN_FORMAT if format is None and (names or not has_bias) else None
