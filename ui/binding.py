"""Form fields and requests: both know a value by the name that GenerationRequest gives it.

A field of a value inside of the request has both names: "hires.scale", "init.mask.blur". The field "init" itself is
what is on the canvas (see ui/canvas_value.py). "hires.is_on" and "tiles.is_on" are switches of the form alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import gradio as gr
from gradio.components import Component

from backend.errors import RequestError
from backend.field_checks import plain_values
from backend.init_image import Borders, InitImage, MaskInput
from backend.recipe import Recipe, parse_recipe
from backend.request import RANDOM_SEED, GenerationRequest, PredictionKind
from backend.second_pass import HiresFix, Tiles
from ui.adapter_rows import sent_rows, shown_rows
from ui.canvas_value import CanvasValue, read_canvas

Field: TypeAlias = gr.Textbox | gr.Dropdown | gr.Checkbox | gr.HTML
Fields: TypeAlias = Mapping[str, Field]
Values: TypeAlias = Mapping[Component, Any]

PICTURE = "init"  # the field of the picture and its mask
SWITCHES = ("hires.is_on", "tiles.is_on")

# A field that is left empty is not part of the request, and the model, or the user's preferences, decide.
_EMPTY = (None, "")
_TEXTS = frozenset({"prompt", "negative_prompt"})
_WHOLE = frozenset(
    {"steps", "width", "height", "seed", "batch_size", "batch_count", "clip_skip", "refiner_switch_timestep"}
)
# A form shows them empty as None.
_OPEN_NUMBERS = _WHOLE | {
    "guidance_scale",
    "distilled_guidance",
    "guidance_rescale",
    "shift",
    "hires.width",
    "hires.height",
    "hires.steps",
    "hires.guidance_scale",
}
_PARTS: dict[str, type] = {
    "": GenerationRequest,
    "init": InitImage,
    "init.mask": MaskInput,
    "init.borders": Borders,
    "hires": HiresFix,
    "tiles": Tiles,
}
_SIDES = ("left", "top", "right", "bottom")


def check_names(fields: Fields) -> None:
    """Raise ValueError when a field is called as no field of a request is."""
    if unknown := sorted(name for name in fields if not _is_known(name)):
        raise ValueError(f"no fields of a request: {', '.join(unknown)}")


def by_name(fields: Fields, values: Values) -> dict[str, Any]:
    """What an event gave for each component, by the field's name."""
    return {name: values[component] for name, component in fields.items()}


def request_of(values: Mapping[str, Any]) -> GenerationRequest:
    """The request that the values of a form stand for. Raises RequestError, which names the field."""
    given = {name: value for name, value in values.items() if name in _TEXTS or value not in _EMPTY}
    asked = {name: _typed(name, value) for name, value in _inside("", given).items() if name != PICTURE}
    if PICTURE in values:
        asked["init"] = _init(given, has_mask_fields=any(name.startswith("init.mask.") for name in values))
    for part in ("hires", "tiles"):
        if given.get(f"{part}.is_on"):
            asked[part] = {name: value for name, value in _inside(part, given).items() if name != "is_on"}
    return GenerationRequest(**asked)


def shown(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of request fields as a form shows them: what is left open is empty, and seeds are text."""
    told: dict[str, Any] = {}
    for name, value in values.items():
        match name:
            case "init":
                told.update(_shown_init(value))
            case "hires" | "tiles":
                told.update(_shown_part(name, value))
                told[f"{name}.is_on"] = value is not None
            case _:
                told[name] = _as_shown(name, value)
    return told


def updates(fields: Fields, values: Mapping[str, Any]) -> dict[Component, Any]:
    """What a handler returns to set the fields that `values` names; it may name others, which are passed over."""
    return {fields[name]: value for name, value in values.items() if name in fields}


def _is_known(name: str) -> bool:
    part, _, field = name.rpartition(".")
    if name in SWITCHES:
        return True
    return part in _PARTS and field in {one.name for one in dataclasses.fields(_PARTS[part])}


def _inside(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one part, by the names that they have there."""
    split = {name: name.rpartition(".") for name in values}
    return {field: values[name] for name, (inside, _, field) in split.items() if inside == part}


def _init(values: Mapping[str, Any], *, has_mask_fields: bool) -> dict[str, Any]:
    """A picture to begin with. Raises RequestError where there is none, or where nothing of it is to change."""
    canvas = read_canvas(PICTURE, values.get(PICTURE))
    if not canvas.picture:
        raise RequestError("init", "there is no picture to begin with. Drop one on the page, paste one, or open a file")
    if has_mask_fields and not canvas.mask and not canvas.borders:
        raise RequestError("init.mask", "nothing is painted. Paint what is to change, or draw the borders further out")
    asked = {**_inside("init", values), "picture": canvas.picture}
    if has_mask_fields and canvas.mask:
        asked["mask"] = {**_inside("init.mask", values), "picture": canvas.mask}
    if has_mask_fields and canvas.borders:
        asked["borders"] = {**_inside("init.borders", values), **dict(zip(_SIDES, canvas.borders, strict=True))}
    return asked


def _shown_init(init: InitImage | None) -> dict[str, Any]:
    """Nothing where a text speaks of no picture: the one that is there stays."""
    if init is None:
        return {}
    sides = tuple(getattr(init.borders, side) for side in _SIDES) if init.borders else None
    canvas = CanvasValue(picture=init.picture, mask=init.mask.picture if init.mask else None, borders=sides)
    return {
        **_shown_part("init", init),
        **_shown_part("init.mask", init.mask),
        **_shown_part("init.borders", init.borders),
        "init": canvas.text(),
    }


def _shown_part(part: str, value: Any) -> dict[str, Any]:
    """The plain fields of a value inside of a request, by their full names."""
    if value is None:
        return {}
    fields = {f"{part}.{one.name}": getattr(value, one.name) for one in dataclasses.fields(value)}
    return {name: _as_shown(name, inner) for name, inner in fields.items() if name not in _PARTS}


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
    if name == "detailers":
        return plain_values(value)
    if name == "seed":
        return "" if value in (None, RANDOM_SEED) else str(value)
    if isinstance(value, PredictionKind):
        return value.value
    if value is None and name not in _OPEN_NUMBERS:
        return ""
    if isinstance(value, Recipe):
        return json.dumps(value.to_mapping(), ensure_ascii=False)
    return list(value) if isinstance(value, tuple) else plain_values(value)
