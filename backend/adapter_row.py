"""Adapters as one picture uses them: rows of the page and of the API, and tags of the prompt once they are read."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

from backend.errors import RequestError
from backend.recipe import HIGHEST, LOWEST, AdapterUse, adapter_from, adapter_mapping

MAX_ROWS = 64
MAX_POINTS = 256
_HASH = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True, kw_only=True)
class StrengthCurve:
    """A strength that changes over the steps of a picture.

    points: (position, strength), positions never going back. Straight lines lie between them; before the first and
    behind the last the strength stays. Of two at one position the second holds from there on, which makes a jump.
    in_steps: whether positions are steps, counted from 0, and not shares of all steps, 0 to 1.
    """

    points: tuple[tuple[float, float], ...]
    in_steps: bool = False

    def at(self, step: int, num_steps: int) -> float:
        """The strength in a step, counted from 0."""
        return self.at_position(float(step) if self.in_steps else step / max(1, num_steps))

    def at_position(self, position: float) -> float:
        """The strength at a step or a share, as `in_steps` says."""
        behind = bisect_right([point for point, _ in self.points], position)
        if behind == 0:
            return self.points[0][1]
        if behind == len(self.points):
            return self.points[-1][1]
        (start, low), (end, high) = self.points[behind - 1 : behind + 1]
        return low + (high - low) * (position - start) / (end - start)


@dataclass(frozen=True, kw_only=True)
class AdapterRow:
    """An adapter that is added for a picture.

    curve: strengths for the denoiser over the steps, in place of `use.strength`.
    """

    use: AdapterUse
    curve: StrengthCurve | None = None

    def strength_at(self, step: int, num_steps: int) -> float:
        """Of the denoiser, in a step counted from 0."""
        return self.use.strength if self.curve is None else self.curve.at(step, num_steps)

    def use_at(self, step: int, num_steps: int) -> AdapterUse:
        """What is added in a step counted from 0. Text encoders, which read the prompt once, have the same in all."""
        if self.curve is None:
            return self.use
        text, plain = self.use.text_encoder_strength, self.use.strength
        strength = self.curve.at(step, num_steps)
        return replace(self.use, strength=strength, text_encoder_strength=plain if text is None else text)


@dataclass(frozen=True, kw_only=True)
class NameHash:
    """Which file a name in the prompt means: 8 to 64 hex digits of its SHA-256, or of that of its tensors alone."""

    name: str
    hash: str


def row_mapping(row: AdapterRow) -> dict[str, Any]:
    """JSON values; `rows_from` gives the same row back."""
    values = adapter_mapping(row.use)
    if row.curve is not None:
        values["curve"] = {"points": [list(point) for point in row.curve.points], "in_steps": row.curve.in_steps}
    return values


def rows_from(value: Any, where: str = "adapters") -> tuple[AdapterRow, ...]:
    """Read rows, or a list of JSON values; a text is the name of a file. where: what errors call it.

    Raises RequestError.
    """
    if not isinstance(value, list | tuple):
        raise RequestError(where, "must be a list")
    rows = cast("Sequence[Any]", value)
    if len(rows) > MAX_ROWS:
        raise RequestError(where, f"has {len(rows)} entries; at most {MAX_ROWS} are possible")
    return tuple(
        row if isinstance(row, AdapterRow) else _row(row, f"{where}[{index}]") for index, row in enumerate(rows)
    )


def name_hashes_from(value: Any, where: str) -> tuple[NameHash, ...]:
    """Read a mapping from names to hashes, or what this function gave. Raises RequestError."""
    if isinstance(value, tuple):
        return cast("tuple[NameHash, ...]", value)
    if not isinstance(value, Mapping):
        raise RequestError(where, "must be an object of names and hashes")
    found = cast("Mapping[str, Any]", value)
    for name, digits in found.items():
        if not isinstance(digits, str) or not _HASH.fullmatch(digits.lower()):
            raise RequestError(f"{where}.{name:.60}", "must be 8 to 64 hex digits")
    return tuple(NameHash(name=name, hash=digits.lower()) for name, digits in found.items())


def _row(value: Any, where: str) -> AdapterRow:
    if isinstance(value, str):
        return AdapterRow(use=adapter_from({"file": value}, where))
    if not isinstance(value, Mapping):
        raise RequestError(where, "must be an object or a name")
    values = dict(cast("Mapping[str, Any]", value))
    curve = values.pop("curve", None)
    return AdapterRow(use=adapter_from(values, where), curve=None if curve is None else _curve(curve, f"{where}.curve"))


def _curve(value: Any, where: str) -> StrengthCurve:
    if not isinstance(value, Mapping):
        raise RequestError(where, "must be an object with points")
    values = cast("Mapping[str, Any]", value)
    points: Any = values.get("points")
    in_steps: Any = values.get("in_steps", False)
    if not isinstance(in_steps, bool):
        raise RequestError(f"{where}.in_steps", "must be true or false")
    if not isinstance(points, list | tuple) or not 1 <= len(cast("Sequence[Any]", points)) <= MAX_POINTS:
        raise RequestError(f"{where}.points", f"must be a list of 1 to {MAX_POINTS} pairs of position and strength")
    pairs = tuple(_point(point, f"{where}.points") for point in cast("Sequence[Any]", points))
    if any(after[0] < before[0] for before, after in pairwise(pairs)):
        raise RequestError(f"{where}.points", "must be in the order of their positions")
    return StrengthCurve(points=pairs, in_steps=in_steps)


def _point(value: Any, where: str) -> tuple[float, float]:
    pair = cast("Sequence[Any]", value) if isinstance(value, list | tuple) else ()
    is_pair = len(pair) == 2 and all(isinstance(n, int | float) and not isinstance(n, bool) for n in pair)
    if not is_pair or not all(map(math.isfinite, pair)):
        raise RequestError(where, "must hold pairs of two numbers, position and strength")
    position, strength = map(float, pair)
    if position < 0 or not LOWEST <= strength <= HIGHEST:
        raise RequestError(where, f"[{position:g}, {strength:g}]: positions begin at 0, and strengths go from "
                           f"{LOWEST:g} to {HIGHEST:g}")  # fmt: skip
    return position, strength
