"""Strengths over the steps as prompts write them: "1@0,0.5@0.5" (loractl), and from which step to which (LBW)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from backend.adapter_row import MAX_POINTS, StrengthCurve

_END = 1.0  # where loractl puts a number without "@"
_SEPARATORS = re.compile("[,;]")


@dataclass(frozen=True, kw_only=True)
class Window:
    """The steps in which something is added: from `start` on, and no longer from `stop` on. None: no such bound.

    in_steps: whether they are steps, counted from 0, and not shares of all steps.
    """

    start: float | None
    stop: float | None
    in_steps: bool


def constant(strength: float) -> StrengthCurve:
    return StrengthCurve(points=((0.0, strength),))


def is_constant(curve: StrengthCurve) -> bool:
    return len(curve.points) == 1


def read_curve(text: str) -> StrengthCurve | None:
    """A number, or numbers with positions. Positions that nowhere exceed 1 are shares. None for what is neither."""
    parts = _SEPARATORS.split(text)
    if len(parts) > MAX_POINTS:
        return None
    points = [_point(part, default=0.0 if len(parts) == 1 else _END) for part in parts]
    found = [point for point in points if point is not None]
    if len(found) < len(points) or any(position < 0 for position, _ in found):
        return None
    found.sort(key=lambda point: point[0])
    if len(found) == 1:
        return constant(found[0][1])
    return StrengthCurve(points=tuple(found), in_steps=found[-1][0] > _END)


def scaled(curve: StrengthCurve, factor: float) -> StrengthCurve:
    points = tuple((position, strength * factor) for position, strength in curve.points)
    return StrengthCurve(points=points, in_steps=curve.in_steps)


def within(curve: StrengthCurve, window: Window) -> StrengthCurve:
    """The curve inside of the window, and 0 outside. The curve is constant, or its positions are of the same kind."""
    start, stop = window.start or 0.0, math.inf if window.stop is None else window.stop
    if stop <= start:
        return constant(0.0)
    points = [(position, strength) for position, strength in curve.points if start < position < stop]
    points = [(start, curve.at_position(start)), *points]
    if start > 0:
        points = [(start, 0.0), *points]
    if stop < math.inf:
        before = next((strength for position, strength in curve.points if position == stop), curve.at_position(stop))
        points = [*points, (stop, before), (stop, 0.0)]
    return StrengthCurve(points=tuple(points), in_steps=window.in_steps) if len(points) > 1 else curve


def read_number(text: str) -> float | None:
    """None for what is no number, or not a finite one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _point(text: str, default: float) -> tuple[float, float] | None:
    """(position, strength)."""
    numbers: Sequence[float | None] = [read_number(part) for part in text.split("@")]
    match numbers:
        case [float(strength)]:
            return default, strength
        case [float(strength), float(position)]:
            return position, strength
        case _:
            return None
