"""Hires fix as A1111's txt2img has it: `enable_hr` and the fields that begin with `hr_`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from backend.diffusion.names import split_sampler_name
from backend.diffusion.schedules import AUTOMATIC
from backend.engine.catalog import Catalog
from backend.engine.library import Library
from backend.errors import RequestError, UnknownName
from backend.http.sdapi.generation_body import flag, whole
from backend.pipeline.infotext_pictures import read_upscaler
from backend.second_pass import HiresFix

STRENGTH = 0.75  # A1111's default, of img2img, too
_NUMBERS = {"hr_scale": "scale", "hr_cfg": "guidance_scale", "denoising_strength": "denoising_strength"}
_COUNTS = {"hr_second_pass_steps": "steps", "hr_resize_x": "width", "hr_resize_y": "height"}  # 0 leaves it open
_TEXTS = {"hr_prompt": "prompt", "hr_negative_prompt": "negative_prompt"}
_READS = frozenset(
    {*_NUMBERS, *_COUNTS, *_TEXTS, "enable_hr", "hr_upscaler", "hr_sampler_name", "hr_scheduler"}
    | {"hr_checkpoint_name", "firstphase_width", "firstphase_height"}
)
NEUTRAL: dict[str, tuple[object, ...]] = {"hr_additional_modules": ([], ["Use same choices"])}
_SAME = "use same"  # "Use same sampler" and so on


def names_read(given: Mapping[str, Any]) -> frozenset[str]:
    """Of the body's names those that are read here; all that begin with `hr_` where there is no second pass."""
    is_on = bool(given.get("enable_hr"))
    return _READS | (frozenset() if is_on else {name for name in given if name.startswith("hr_")})


def read_hires(
    given: Mapping[str, Any], of_infotext: HiresFix | None, catalog: Catalog, library: Library
) -> HiresFix | None:
    """The second pass that the body asks for. of_infotext: what its infotext says, which counts less.

    Raises RequestError: in our words for numbers, in A1111's for names.
    """
    if not flag(given, "enable_hr", default=of_infotext is not None):
        return None
    fields: dict[str, Any] = {ours: given[theirs] for theirs, ours in {**_NUMBERS, **_TEXTS}.items() if theirs in given}
    fields |= {ours: whole(given[theirs]) or None for theirs, ours in _COUNTS.items() if theirs in given}
    if (upscaler := _name(given, "hr_upscaler")) is not None:
        fields["upscaler"] = read_upscaler(upscaler)
    fields |= _looked_up(given, "hr_sampler_name", lambda name: _sampler(name, catalog))
    fields |= _looked_up(given, "hr_scheduler", lambda name: _schedule(name, catalog))
    fields |= _looked_up(given, "hr_checkpoint_name", lambda name: {"checkpoint": library.find_checkpoint(name).name})
    return _second_pass(fields, of_infotext)


def _second_pass(fields: Mapping[str, Any], of_infotext: HiresFix | None) -> HiresFix:
    known: dict[str, Any] = {"denoising_strength": STRENGTH} if of_infotext is None else vars(of_infotext)
    try:
        return HiresFix(**{**known, **fields})
    except RequestError as error:
        raise RequestError(f"hires.{error.field}", error.problem) from error


def _looked_up(given: Mapping[str, Any], field: str, find: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    if (name := _name(given, field)) is None:
        return {}
    try:
        return find(name)
    except UnknownName as error:
        raise RequestError(field, str(error)) from error


def _sampler(name: str, catalog: Catalog) -> dict[str, Any]:
    sampler, schedule = split_sampler_name(name, catalog.samplers, catalog.schedules)
    return {"sampler": sampler.name} | ({"schedule": schedule} if schedule else {})


def _schedule(name: str, catalog: Catalog) -> dict[str, Any]:
    is_automatic = name.strip().casefold() == AUTOMATIC
    return {"schedule": AUTOMATIC if is_automatic else catalog.schedules[name].name}


def _name(given: Mapping[str, Any], field: str) -> str | None:
    """None for every way to say: as the first pass has it."""
    name = given.get(field, "")
    if not isinstance(name, str):
        raise RequestError(field, f"must be a name, not {type(name).__name__}")
    return None if not name or name.casefold().startswith(_SAME) else name
