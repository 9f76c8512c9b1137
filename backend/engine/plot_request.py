"""What a user asks for when many pictures are to be compared: one request, and what changes along axes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from backend.engine.axis_catalog import axis_kinds
from backend.engine.axis_kinds import AxisKind
from backend.engine.axis_values import MAX_VALUES, Value, ValueKind, values_of
from backend.engine.loopback import Loopback, check_round_trip
from backend.errors import RequestError
from backend.field_checks import check_bool, checked_value, plain_values
from backend.request import GenerationRequest

MAX_AXES = 6
MAX_CELLS = 2500
_NAMES = ("x", "y", "z")
_KINDS = axis_kinds()
_AXIS_FIELDS = ("kind", "target", "values")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """kind: what changes: a field, dotted inside of `init` and its like, or another kind of `axis_kinds`.

    target: what of it, for kinds that need it: of "parameter" its name; of "block" the names of blocks, joined by "+",
    behind the parameter's and a colon ("alpha:IN04+IN05"; "IN04" alone is alpha's); of "adapter" a LoRA's name.
    values: as they were written; `choices` are what they come to. Raises RequestError, which calls the axis `where`.
    """

    kind: str
    values: tuple[Value, ...]
    target: str = ""

    @classmethod
    def from_mapping(cls, value: Any, where: str) -> Axis:
        """Read JSON values; of `values` also a text, as A1111 has it. Raises RequestError."""
        if not isinstance(value, Mapping):
            raise RequestError(where, "must be an object with kind, target and values")
        found = cast("Mapping[str, Any]", value)
        if unknown := sorted(str(name)[:60] for name in found.keys() - set(_AXIS_FIELDS)):
            raise RequestError(f"{where}.{unknown[0]}", f"is not known here. Known: {', '.join(_AXIS_FIELDS)}")
        name, target, values = found.get("kind"), found.get("target", ""), found.get("values")
        if not isinstance(name, str) or name not in _KINDS.names():
            raise RequestError(f"{where}.kind", f"must be one of {', '.join(_KINDS.names())}, not {name!r:.60}")
        kind = _KINDS[name]
        if not isinstance(target, str) or len(target) > 500:
            raise RequestError(f"{where}.target", "must be a name")
        if kind.needs_target and not target.rpartition(":")[2].strip():
            raise RequestError(f"{where}.target", f"is missing: {kind.target}")
        axis = cls(kind=name, values=_values(kind, values, f"{where}.values"), target=target)
        kind.expand(axis.values, f"{where}.values")
        return axis

    def to_mapping(self) -> dict[str, Any]:
        return {"kind": self.kind, "target": self.target, "values": list(self.values)}

    @property
    def facts(self) -> AxisKind:
        return _KINDS[self.kind]

    @cached_property
    def choices(self) -> tuple[Value, ...]:
        """One for each picture along the axis."""
        return self.facts.expand(self.values, "values")

    @property
    def title(self) -> str:
        """What changes, for the user."""
        match self.kind:
            case "parameter":
                return self.target or "alpha"
            case "block" | "adapter":
                return self.target
            case _:
                return self.facts.label

    def text(self, index: int) -> str:
        """The value alone."""
        value = self.choices[index]
        return f"{value:g}" if isinstance(value, float) else str(value)

    def label(self, index: int) -> str:
        """For a heading: "alpha 0.5"."""
        text = self.text(index)
        return (text or "(nothing)") if self.facts.has_names else f"{self.title} {text}"


@dataclass(frozen=True, kw_only=True)
class PlotRequest:
    """One picture of `request` for every combination of the axes' values. Raises RequestError.

    axes: the first goes to the right, the second down; with more there are several grids.
    loopback: every picture goes through these rounds, which are one more axis, behind the others.
    different_seeds: every picture has the next seed, in place of the same.
    """

    request: GenerationRequest
    axes: tuple[Axis, ...] = ()
    loopback: Loopback | None = None
    different_seeds: bool = False

    def __post_init__(self) -> None:
        if len(self.axes) > MAX_AXES:
            raise RequestError("axes", f"are {len(self.axes)}; at most {MAX_AXES} are possible")
        if not self.axes and self.loopback is None:
            raise RequestError("x", "is missing: a plot needs something that changes")
        if self.num_cells > MAX_CELLS:
            where = axis_name(len(self.axes) - 1) if self.axes else "loopback"
            raise RequestError(where, f"{self.num_cells} pictures are too many; at most {MAX_CELLS} fit into a plot")
        if self.loopback is not None:
            check_round_trip(self.request)
        check_bool("different_seeds", self.different_seeds, optional=False)
        if self.request.batch_size * self.request.batch_count != 1:
            object.__setattr__(self, "request", dataclasses.replace(self.request, batch_size=1, batch_count=1))

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many there are along each axis; the rounds are the last."""
        rounds = () if self.loopback is None else (self.loopback.rounds,)
        return (*(len(axis.choices) for axis in self.axes), *rounds)

    @property
    def num_cells(self) -> int:
        return math.prod(self.sizes)

    def labels(self, axis: int) -> list[str]:
        """Headings along one of the axes, the rounds included."""
        if axis == len(self.axes):
            return [f"Round {number + 1}" for number in range(self.sizes[axis])]
        return [self.axes[axis].label(index) for index in range(self.sizes[axis])]

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> PlotRequest:
        """Read JSON values. Raises RequestError for an unknown field, too.

        Axes are a list in `axes`, or `x`, `y` and `z`.
        """
        known = {"request", "axes", "loopback", "different_seeds", *_NAMES}
        if unknown := sorted(str(name)[:60] for name in values.keys() - known):
            raise RequestError(unknown[0], f"is not known here. Known: {', '.join(sorted(known))}")
        request = values.get("request")
        if not isinstance(request, Mapping):
            raise RequestError("request", "must be an object, as a job's request")
        loopback = values.get("loopback")
        return cls(
            request=GenerationRequest.from_mapping(cast("Mapping[str, Any]", request)),
            axes=_axes(values),
            loopback=None if loopback is None else checked_value("loopback", Loopback, loopback),
            different_seeds=values.get("different_seeds", False),
        )

    def to_mapping(self) -> dict[str, Any]:
        """JSON values; `from_mapping` gives the same request back."""
        return {
            "request": self.request.to_mapping(),
            "axes": [axis.to_mapping() for axis in self.axes],
            "loopback": plain_values(self.loopback),
            "different_seeds": self.different_seeds,
        }


def axis_name(index: int) -> str:
    """What errors call an axis."""
    return _NAMES[index] if index < len(_NAMES) else f"axes[{index}]"


def _axes(values: Mapping[str, Any]) -> tuple[Axis, ...]:
    listed = values.get("axes")
    if listed is None:
        given = [(name, values.get(name)) for name in _NAMES]
        if given[0][1] is None and any(one is not None for _, one in given):
            raise RequestError("x", "is missing; axes are given in the order x, y, z")
        return tuple(Axis.from_mapping(one, name) for name, one in given if one is not None)
    if not isinstance(listed, list):
        raise RequestError("axes", "must be a list of objects with kind, target and values")
    given = cast("Sequence[Any]", listed)
    return tuple(Axis.from_mapping(one, axis_name(index)) for index, one in enumerate(given))


def _values(kind: AxisKind, values: Any, where: str) -> tuple[Value, ...]:
    if isinstance(values, str):
        return values_of(values, kind.values, where)
    if not isinstance(values, list | tuple) or not 1 <= len(cast("Sequence[Any]", values)) <= MAX_VALUES:
        raise RequestError(where, f"must be a text, or a list of 1 to {MAX_VALUES} values")
    return tuple(_value(kind.values, one, where) for one in cast("Sequence[Any]", values))


def _value(kind: ValueKind, value: Any, where: str) -> Value:
    match kind:
        case ValueKind.NAME | ValueKind.TEXT:
            if not isinstance(value, str) or (kind is ValueKind.NAME and not value):
                raise RequestError(where, f"must hold names, not {value!r:.60}")
            return value
        case ValueKind.SWITCH:
            if not isinstance(value, bool):
                raise RequestError(where, f"must hold true or false, not {value!r:.60}")
            return value
        case ValueKind.WHOLE | ValueKind.NUMBER:
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                raise RequestError(where, f"must hold numbers, not {value!r:.60}")
            if kind is ValueKind.NUMBER:
                return float(value)
            if value != int(value):
                raise RequestError(where, f"must hold whole numbers, not {value!r}")
            return int(value)
