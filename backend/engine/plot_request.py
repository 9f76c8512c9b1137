"""What a user asks for when many pictures are to be compared: one request, and what changes along one or two axes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

from backend.errors import RequestError
from backend.request import GenerationRequest

MAX_VALUES = 64
MAX_CELLS = 256

Value = float | str


class AxisKind(str, Enum):
    """PARAMETER: a number of the recipe's outermost merge, such as its alpha. BLOCK: the same, of some blocks alone.

    RULE: of that merge. The others are fields of the request.
    """

    PARAMETER = "parameter"
    BLOCK = "block"
    RULE = "rule"
    CHECKPOINT = "checkpoint"
    SEED = "seed"
    STEPS = "steps"
    GUIDANCE = "guidance_scale"

    @property
    def has_names(self) -> bool:
        return self in (AxisKind.RULE, AxisKind.CHECKPOINT)

    @property
    def changes_model(self) -> bool:
        return self not in (AxisKind.SEED, AxisKind.STEPS, AxisKind.GUIDANCE)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """target: of PARAMETER its name; of BLOCK the names of blocks, joined by "+", behind the parameter's and a colon
    ("alpha:IN04+IN05"; "IN04" alone is alpha's). values: numbers, or names. Raises RequestError."""

    kind: AxisKind
    values: tuple[Value, ...]
    target: str = ""

    @classmethod
    def from_mapping(cls, value: Any, where: str) -> Axis:
        """Read JSON values. Raises RequestError."""
        if not isinstance(value, Mapping):
            raise RequestError(where, "must be an object with kind, target and values")
        found = cast("Mapping[str, Any]", value)
        if unknown := sorted(str(name)[:60] for name in found.keys() - {"kind", "target", "values"}):
            raise RequestError(f"{where}.{unknown[0]}", "is not known here. Known: kind, target, values")
        kinds = {kind.value: kind for kind in AxisKind}
        kind, target, values = found.get("kind"), found.get("target", ""), found.get("values")
        if not isinstance(kind, str) or kind not in kinds:
            raise RequestError(f"{where}.kind", f"must be one of {', '.join(kinds)}, not {kind!r:.60}")
        if not isinstance(target, str) or len(target) > 500:
            raise RequestError(f"{where}.target", "must be a name")
        if kinds[kind] is AxisKind.BLOCK and not target.rpartition(":")[2]:
            raise RequestError(f"{where}.target", 'must name blocks, such as "IN04"')
        if not isinstance(values, list) or not 1 <= len(cast("list[Any]", values)) <= MAX_VALUES:
            raise RequestError(f"{where}.values", f"must be a list of 1 to {MAX_VALUES} values")
        checked = tuple(_value(kinds[kind], one, f"{where}.values") for one in cast("list[Any]", values))
        return cls(kind=kinds[kind], values=checked, target=target)

    def to_mapping(self) -> dict[str, Any]:
        return {"kind": self.kind.value, "target": self.target, "values": list(self.values)}

    @property
    def title(self) -> str:
        """What changes, for the user."""
        match self.kind:
            case AxisKind.PARAMETER:
                return self.target or "alpha"
            case AxisKind.BLOCK:
                return self.target
            case AxisKind.GUIDANCE:
                return "guidance"
            case _:
                return self.kind.value

    def label(self, index: int) -> str:
        """For a heading: "alpha 0.5"."""
        value = self.values[index]
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return text if self.kind.has_names else f"{self.title} {text}"


@dataclass(frozen=True, kw_only=True)
class PlotRequest:
    """One picture of `request` for every value of x, or for every pair of values. Raises RequestError."""

    request: GenerationRequest
    x: Axis
    y: Axis | None = None

    def __post_init__(self) -> None:
        if self.num_cells > MAX_CELLS:
            raise RequestError("y", f"{self.num_cells} pictures are too many; at most {MAX_CELLS} fit into a plot")
        if self.request.batch_size * self.request.batch_count != 1:
            object.__setattr__(self, "request", dataclasses.replace(self.request, batch_size=1, batch_count=1))

    @property
    def rows(self) -> int:
        return 1 if self.y is None else len(self.y.values)

    @property
    def num_cells(self) -> int:
        return len(self.x.values) * self.rows

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> PlotRequest:
        """Read JSON values. Raises RequestError for an unknown field, too."""
        if unknown := sorted(str(name)[:60] for name in values.keys() - {"request", "x", "y"}):
            raise RequestError(unknown[0], "is not known here. Known: request, x, y")
        request = values.get("request")
        if not isinstance(request, Mapping):
            raise RequestError("request", "must be an object, as a job's request")
        y = values.get("y")
        return cls(
            request=GenerationRequest.from_mapping(cast("Mapping[str, Any]", request)),
            x=Axis.from_mapping(values.get("x"), "x"),
            y=None if y is None else Axis.from_mapping(y, "y"),
        )

    def to_mapping(self) -> dict[str, Any]:
        """JSON values; `from_mapping` gives the same request back."""
        y = None if self.y is None else self.y.to_mapping()
        return {"request": self.request.to_mapping(), "x": self.x.to_mapping(), "y": y}


def _value(kind: AxisKind, value: Any, where: str) -> Value:
    if kind.has_names:
        if not isinstance(value, str) or not value:
            raise RequestError(where, f"must hold names, not {value!r:.60}")
        return value
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise RequestError(where, f"must hold numbers, not {value!r:.60}")
    if kind in (AxisKind.SEED, AxisKind.STEPS):
        if value != int(value):
            raise RequestError(where, f"must hold whole numbers, not {value!r}")
        return int(value)
    return float(value)
