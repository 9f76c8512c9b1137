"""Settings that a picture carries, or that someone pasted, as values of the form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backend.diffusion.names import split_sampler_name
from backend.diffusion.schedules import AUTOMATIC
from backend.engine.engine import Engine
from backend.errors import UnknownName
from backend.pipeline.infotext import read_infotext, request_from_infotext

# What a text leaves out when it was not used: left standing in the form it would change the picture.
_OFF = {"refiner": None, "refiner_switch_timestep": None, "guidance_rescale": 0, "shift": None}


@dataclass(frozen=True, kw_only=True)
class Restored:
    """values: of the fields that the text speaks of, by name; notices: what was not restored, and why."""

    values: dict[str, Any]
    notices: list[str]


def restore(engine: Engine, text: str) -> Restored:
    """Read an infotext and find what it names. A text without parameters is a prompt, and only that."""
    infotext = read_infotext(text)
    fields, notices = request_from_infotext(infotext)
    values: dict[str, Any] = dict(_OFF) if infotext.parameters else {}
    for name, value in fields.items():
        try:
            values.update(_found(engine, name, value))
        except UnknownName as error:
            notices.append(f"{name.replace('_', ' ').capitalize()} was not restored. {error}")
    # The schedule that the text names counts more than the one inside an old sampler's name.
    if values.get("schedule") == AUTOMATIC:
        values["schedule"] = ""
    return Restored(values=values, notices=notices)


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
