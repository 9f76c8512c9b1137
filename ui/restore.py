"""Settings that a picture carries, or that someone pasted, as values of the form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.adapter_row import AdapterRow
from backend.diffusion.names import split_sampler_name
from backend.diffusion.schedules import AUTOMATIC
from backend.engine.engine import Engine
from backend.engine.recipe_inputs import without_hashes
from backend.errors import EmulsionError, UnknownName
from backend.merging.metadata import recipe_in
from backend.pipeline.infotext import read_infotext, request_from_infotext
from backend.pipeline.infotext_pictures import pictures_from
from backend.recipe import Recipe
from backend.weights.weight_file import open_weights
from ui.restored_pictures import detailers_here, hires_here, init_here

# What a text leaves out when it was not used: left standing in the form it would change the picture.
_OFF = {
    "recipe": None,
    "adapters": (),
    "name_hashes": (),
    "refiner": None,
    "refiner_switch_timestep": None,
    "guidance_rescale": 0,
    "shift": None,
    "prediction": None,
    "hires": None,
    "tiles": None,
    "detailers": (),
}


@dataclass(frozen=True, kw_only=True)
class Restored:
    """values: of the fields that the text speaks of, by name; notices: what was not restored, and why.

    Of a picture to begin with that the text does not name there are single fields, such as "init.mask.blur".
    """

    values: dict[str, Any]
    notices: list[str]


def restore(engine: Engine, text: str) -> Restored:
    """Read an infotext and find what it names. A text without parameters is a prompt, and only that."""
    infotext = read_infotext(text)
    fields, notices = request_from_infotext(infotext)
    values: dict[str, Any] = dict(_OFF) if infotext.parameters else {}
    values.update(pictures_from(infotext.parameters).settings)
    recipe = fields.pop("recipe", None)
    if recipe is not None:
        name = fields.pop("checkpoint", "")
        values.update(_made(engine, recipe, name, notices))
    notices.extend(_missing(engine, fields.get("adapters", ())))
    fields = {**fields, **_pictures(engine, fields, notices)}
    for name, value in fields.items():
        try:
            values.update(_found(engine, name, value))
        except UnknownName as error:
            notices.append(f"{name.replace('_', ' ').capitalize()} was not restored. {error}")
    # The schedule that the text names counts more than the one inside an old sampler's name.
    if values.get("schedule") == AUTOMATIC:
        values["schedule"] = ""
    return Restored(values=values, notices=notices)


def recipe_of_file(path: Path) -> Recipe | None:
    """The recipe that a merged checkpoint was made by, from its header; None for one that was not.

    Raises FileError, and RequestError for a recipe that cannot be read.
    """
    return recipe_in(open_weights(path).metadata)


def _made(engine: Engine, recipe: Recipe, name: str, notices: list[str]) -> dict[str, Any]:
    """The stored recipe that makes the same model, or the recipe itself."""
    try:
        made = engine.make(recipe)
    except EmulsionError as error:
        notices.append(f"The recipe of {name or 'the model'} was not restored. {error}")
        return {}
    notices.extend(made.notices)
    same = without_hashes(made.recipe)
    for entry in engine.recipes.entries():
        if entry.recipe is not None and without_hashes(entry.recipe) == same:
            return {"checkpoint": entry.name, "recipe": None}
    return {"recipe": dataclasses.replace(made.recipe, name=recipe.name or name)}


def _missing(engine: Engine, rows: Sequence[AdapterRow]) -> Iterator[str]:
    """What is told of LoRAs that are not here under their names; their rows stay, for a job looks for hashes, too."""
    for row in rows:
        try:
            engine.library.find_lora(row.use.file.name)
        except EmulsionError as error:
            if not row.use.file.sha256:
                yield f"The row of LoRA {row.use.file.name} finds no file. {error}"


def _pictures(engine: Engine, fields: Mapping[str, Any], notices: list[str]) -> dict[str, Any]:
    """A text that names no picture leaves the one that is there; so does one whose picture is not here."""
    found: dict[str, Any] = {}
    if "init" in fields:
        found["init"] = init_here(engine, fields["init"], notices)
    if "hires" in fields:
        found["hires"] = hires_here(engine, fields["hires"], notices)
    if "detailers" in fields:
        found["detailers"] = detailers_here(engine, fields["detailers"], notices)
    return found


def _found(engine: Engine, name: str, value: Any) -> dict[str, Any]:
    """The value as the form stores it. Raises UnknownName when there is nothing of that name."""
    if isinstance(value, str) and name in _FINDERS:
        return _FINDERS[name](engine, value)
    if name == "text_encoders":
        return {name: [engine.library.find_text_encoder(encoder).name for encoder in value]}
    return {name: value}


def _sampler(engine: Engine, text: str) -> dict[str, Any]:
    sampler, schedule = split_sampler_name(text, engine.catalog.samplers, engine.catalog.schedules)
    return {"sampler": sampler.name, "schedule": schedule or ""}


def _schedule(engine: Engine, text: str) -> dict[str, Any]:
    is_automatic = text.strip().casefold() == AUTOMATIC
    return {"schedule": "" if is_automatic else engine.catalog.schedules[text].name}


# Sampler comes before schedule in every infotext, so that a schedule of its own replaces the sampler's.
_FINDERS: dict[str, Callable[[Engine, str], dict[str, Any]]] = {
    "sampler": _sampler,
    "schedule": _schedule,
    "checkpoint": lambda engine, text: {"checkpoint": engine.library.find_checkpoint(text).name},
    "vae": lambda engine, text: {"vae": engine.library.find_vae(text).name},
    "refiner": lambda engine, text: {"refiner": engine.library.find_checkpoint(text).name},
    "emphasis": lambda engine, text: {"emphasis": engine.catalog.emphasis_modes[text].name},
    "noise_source": lambda engine, text: {"noise_source": engine.catalog.noise_sources[text].name},
}
