"""Plots as programs and the page ask for them: axes, the parts of a prompt matrix, or lines of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from backend.engine.plot_request import Axis, PlotRequest
from backend.engine.prompt_lines import lines_of
from backend.engine.prompt_matrix import matrix_axes
from backend.errors import RequestError

_MATRIX_FIELDS = frozenset({"field", "at_start"})
_PROMPTS = ("prompt", "negative_prompt")


def plot_from(values: Mapping[str, Any]) -> PlotRequest:
    """Read JSON values: those of a plot, and what makes axes that come before its others.

    matrix: {"field": "prompt", "at_start": false} combines what "|" separates in that prompt.
    lines: a text of which each line is a job; lines_at: "start" or "end" of the prompt, "" in its place.
    Raises RequestError.
    """
    left = {name: value for name, value in values.items() if name not in ("matrix", "lines", "lines_at")}
    made: list[Axis] = []
    if values.get("lines") is not None:
        made.append(_line_axis(values["lines"], values.get("lines_at", "")))
    elif "lines_at" in values:
        raise RequestError("lines_at", "is there without lines")
    if values.get("matrix") is not None:
        request, axes = _matrix(values["matrix"], left.get("request"))
        left["request"] = request
        made += axes
    if not made:
        return PlotRequest.from_mapping(left)
    named = [left.pop(name) for name in ("x", "y", "z") if left.get(name) is not None]
    others = left.get("axes")
    if others is not None and not isinstance(others, list):
        raise RequestError("axes", "must be a list of objects with kind, target and values")
    left["axes"] = [*(axis.to_mapping() for axis in made), *named, *cast("list[Any]", others or [])]
    return PlotRequest.from_mapping(left)


def _line_axis(text: Any, target: Any) -> Axis:
    if not isinstance(text, str):
        raise RequestError("lines", "must be a text")
    if target not in ("", "start", "end"):
        raise RequestError("lines_at", f'must be "start", "end" or empty, not {target!r:.60}')
    lines = lines_of(text)
    if not lines:
        raise RequestError("lines", "are missing; write a prompt on each line")
    return Axis(kind="line", values=lines, target=target)


def _matrix(value: Any, request: Any) -> tuple[dict[str, Any], tuple[Axis, ...]]:
    if not isinstance(value, Mapping):
        raise RequestError("matrix", "must be an object with field and at_start")
    found = cast("Mapping[str, Any]", value)
    if unknown := sorted(str(name)[:60] for name in found.keys() - _MATRIX_FIELDS):
        raise RequestError(f"matrix.{unknown[0]}", "is not known here. Known: at_start, field")
    field, at_start = found.get("field", "prompt"), found.get("at_start", False)
    if field not in _PROMPTS:
        raise RequestError("matrix.field", f"must be prompt or negative_prompt, not {field!r:.60}")
    if not isinstance(at_start, bool):
        raise RequestError("matrix.at_start", "must be true or false")
    if not isinstance(request, Mapping):
        raise RequestError("request", "must be an object, as a job's request")
    asked = dict(cast("Mapping[str, Any]", request))
    prompt = asked.get(field, "")
    if not isinstance(prompt, str):
        raise RequestError(field, "must be text")
    first, axes = matrix_axes(field, prompt, at_start=at_start)
    return {**asked, field: first}, axes
