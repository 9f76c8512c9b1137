"""All kinds of axes by name."""

from __future__ import annotations

from backend.engine import adapter_axis, merge_axes, prompt_axes, prompt_lines, size_axis
from backend.engine.axis_kinds import AxisKind, field_kinds
from backend.registry import Registry


def axis_kinds() -> Registry[AxisKind]:
    """The fields of a request, and what is not one field."""
    return Registry(
        "kind of axis",
        [
            *field_kinds(),
            *size_axis.BUILTIN,
            *prompt_axes.BUILTIN,
            *prompt_lines.BUILTIN,
            *adapter_axis.BUILTIN,
            *merge_axes.BUILTIN,
        ],
    )
