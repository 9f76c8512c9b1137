"""Form fields and requests: both know a value by the name that GenerationRequest gives it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import gradio as gr
from gradio.components import Component

from backend.errors import RequestError
from backend.recipe import Recipe, parse_recipe
from backend.request import RANDOM_SEED, GenerationRequest, PredictionKind
from ui.adapter_rows import sent_rows, shown_rows

Field: TypeAlias = gr.Textbox | gr.Dropdown | gr.Checkbox | gr.HTML
Fields: TypeAlias = Mapping[str, Field]
Values: TypeAlias = Mapping[Component, Any]

# A field that is left empty is not part of the request, and the model, or the user's preferences, decide.
_EMPTY = (None, "")
_TEXTS = frozenset({"prompt", "negative_prompt"})
_WHOLE = frozenset(
    {"steps", "width", "height", "seed", "batch_size", "batch_count", "clip_skip", "refiner_switch_timestep"}
)
# A form shows them empty as None.
_OPEN_NUMBERS = _WHOLE | {"guidance_scale", "distilled_guidance", "guidance_rescale", "shift"}
_NAMES = frozenset(field.name for field in dataclasses.fields(GenerationRequest))


def check_names(fields: Fields) -> None:
    """Raise ValueError when a field is called as no field of a request is."""
    if unknown := sorted(fields.keys() - _NAMES):
        raise ValueError(f"no fields of a request: {', '.join(unknown)}")


def by_name(fields: Fields, values: Values) -> dict[str, Any]:
    """What an event gave for each component, by the field's name."""
    return {name: values[component] for name, component in fields.items()}


def request_of(values: Mapping[str, Any]) -> GenerationRequest:
    """The request that the values of a form stand for. Raises RequestError, which names the field."""
    given = {name: value for name, value in values.items() if name in _TEXTS or value not in _EMPTY}
    return GenerationRequest(**{name: _typed(name, value) for name, value in given.items()})


def shown(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of request fields as a form shows them: what is left open is empty, and seeds are text."""
    return {name: _as_shown(name, value) for name, value in values.items()}


def updates(fields: Fields, values: Mapping[str, Any]) -> dict[Component, Any]:
    """What a handler returns to set the fields that `values` names; it may name others, which are passed over."""
    return {fields[name]: value for name, value in values.items() if name in fields}


def _typed(name: str, value: Any) -> Any:
    match name:
        case "recipe":
            return parse_recipe(value) if isinstance(value, str) else value
        case "adapters":
            return sent_rows(value)
        case _:
            return _whole(name, value)


def _whole(name: str, value: Any) -> Any:
    """A whole number that came as text, as seeds do: JavaScript rounds numbers above 2**53."""
    if name not in _WHOLE or not isinstance(value, str):
        return value
    try:
        return int(value)
    except ValueError:
        raise RequestError(name, f'must be a whole number, not "{value[:40]}"') from None


def _as_shown(name: str, value: Any) -> Any:
    if name == "adapters":
        return shown_rows(value)
    if name == "name_hashes":
        return {known.name: known.hash for known in value}
    if name == "seed":
        return "" if value in (None, RANDOM_SEED) else str(value)
    if isinstance(value, PredictionKind):
        return value.value
    if value is None and name not in _OPEN_NUMBERS:
        return ""
    if isinstance(value, Recipe):
        return json.dumps(value.to_mapping(), ensure_ascii=False)
    return list(value) if isinstance(value, tuple) else value
