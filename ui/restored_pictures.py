"""What a text says of pictures, second passes and details, as far as it is here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from backend.diffusion.names import split_sampler_name
from backend.diffusion.schedules import AUTOMATIC
from backend.engine.engine import Engine
from backend.errors import UnknownName, UnknownPicture
from backend.init_image import InitImage
from backend.second_pass import Detailer, HiresFix


def init_here(engine: Engine, init: InitImage, notices: list[str]) -> InitImage | None:
    """Without its mask if that is not stored here; None if the picture itself is not."""
    if not _is_here(engine, "The picture that it began with", init.picture, notices):
        return None
    if init.upscaler is not None and (name := _upscaler_here(engine, init.upscaler, notices)) != init.upscaler:
        init = dataclasses.replace(init, upscaler=name)
    if init.mask is not None and not _is_here(engine, "Its mask", init.mask.picture, notices):
        return dataclasses.replace(init, mask=None)
    return init


def hires_here(engine: Engine, hires: HiresFix, notices: list[str]) -> HiresFix:
    """With this program's names; what is not here is the first pass's."""
    found: dict[str, Any] = {}
    for field, find in _FINDERS.items():
        if (asked := getattr(hires, field)) is None:
            continue
        try:
            found |= find(engine, asked)
        except UnknownName as error:
            found[field] = None
            notices.append(f"The {field} of the second pass was not restored. {error}")
    upscaler = _upscaler_here(engine, hires.upscaler, notices) or HiresFix.upscaler
    return dataclasses.replace(hires, upscaler=upscaler, **found)


def detailers_here(engine: Engine, detailers: tuple[Detailer, ...], notices: list[str]) -> tuple[Detailer, ...]:
    """Without those whose masks are not stored here."""
    return tuple(
        one
        for one in detailers
        if one.mask is None or _is_here(engine, "The mask of a detailer", one.mask, notices)
    )  # fmt: skip


def _upscaler_here(engine: Engine, name: str, notices: list[str]) -> str | None:
    """What it is called here; None where there is none of the name."""
    if name in engine.catalog.latent_upscalers:
        return engine.catalog.latent_upscalers[name].name
    try:
        return engine.upscalers.find(name).name
    except UnknownName as error:
        notices.append(f"What enlarges the picture was not restored. {error}")
        return None


def _is_here(engine: Engine, what: str, sha256: str, notices: list[str]) -> bool:
    try:
        engine.pictures.path(sha256)
    except UnknownPicture as error:
        notices.append(f"{what} was not restored. {error}")
        return False
    return True


def _sampler(engine: Engine, text: str) -> dict[str, Any]:
    sampler, schedule = split_sampler_name(text, engine.catalog.samplers, engine.catalog.schedules)
    return {"sampler": sampler.name} | ({"schedule": schedule} if schedule else {})


def _schedule(engine: Engine, text: str) -> dict[str, Any]:
    is_automatic = text.strip().casefold() == AUTOMATIC
    return {"schedule": AUTOMATIC if is_automatic else engine.catalog.schedules[text].name}


# A schedule of its own replaces the one inside an old sampler's name.
_FINDERS: dict[str, Callable[[Engine, str], dict[str, Any]]] = {
    "sampler": _sampler,
    "schedule": _schedule,
    "checkpoint": lambda engine, text: {"checkpoint": engine.library.find_checkpoint(text).name},
}
