"""What the bodies of A1111's txt2img and img2img have in common, as fields of a request of ours."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from backend.diffusion.names import split_sampler_name
from backend.diffusion.samplers.sampler import Sampler
from backend.diffusion.schedules import Schedule
from backend.engine.catalog import Catalog
from backend.engine.library import Library
from backend.errors import NotSupported, RequestError, UnknownName
from backend.http.sdapi.modules import fields_of_modules
from backend.pipeline.infotext import read_infotext, request_from_infotext
from backend.registry import Registry
from backend.request import GenerationRequest

# Ours by A1111's name. Fields that hold whole numbers come first; some clients write 20 as 20.0.
_WHOLE = {
    "steps": "steps",
    "width": "width",
    "height": "height",
    "seed": "seed",
    "batch_size": "batch_size",
    "n_iter": "batch_count",
    "clip_skip": "clip_skip",
}
_OTHERS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "cfg_scale": "guidance_scale",
    "distilled_cfg_scale": "distilled_guidance",
    "refiner_switch_at": "refiner_switch",
}
_READ_BY_NAME = frozenset(
    {"sampler_name", "sampler_index", "scheduler", "refiner_checkpoint", "override_settings", "infotext"}
    | {"eta", "send_images", "save_images", "do_not_save_samples", "override_settings_restore_afterwards"}
)
# What changes pictures in a way that we do not have, and the values at which it changes nothing.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "styles": ([],),
    "subseed_strength": (0,),
    "seed_resize_from_h": (-1, 0),
    "seed_resize_from_w": (-1, 0),
    "restore_faces": (False,),
    "tiling": (False,),
    "s_churn": (0,),
    "s_noise": (1,),
    "s_min_uncond": (0,),
    "script_name": ("", "None"),
    "alwayson_scripts": ({},),
    "firstpass_image": ("",),
}
# What means nothing without one of those, or changes no picture.
_MEANINGLESS = frozenset(
    {"subseed", "script_args", "s_tmin", "s_tmax", "force_task_id", "do_not_save_grid", "comments"}
    | {"disable_extra_networks"}
)
_SETTINGS = {
    "sd_model_checkpoint": "checkpoint",
    "sd_vae": "vae",
    "CLIP_stop_at_last_layers": "clip_skip",
    "emphasis": "emphasis",
    "randn_source": "noise_source",
    "emulsion_prediction": "prediction",
}
_MODULES = "forge_additional_modules"
_NEUTRAL_SETTINGS: dict[str, tuple[object, ...]] = {"eta_noise_seed_delta": (0,)}
_NO_REFINER = ("", "None")
OWN_VAE = ("", "Automatic", "None")  # A1111's ways to say: the checkpoint's own


@dataclass(frozen=True, kw_only=True)
class GenerationCall:
    """notices: what of the body was not used, and why."""

    request: GenerationRequest
    send_images: bool
    save_images: bool
    notices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GenerationBody:
    """A body that is being read. given: what is not null. fields: of the request, as far as both bodies have them.

    settings: those of `override_settings` that are left for the caller.
    """

    given: Mapping[str, Any]
    fields: Mapping[str, Any]
    settings: Mapping[str, Any]
    notices: tuple[str, ...]

    def call(self, fields: Mapping[str, Any], notices: Sequence[str] = ()) -> GenerationCall:
        """With the caller's own fields. Raises RequestError."""
        return GenerationCall(
            request=GenerationRequest.from_mapping({**self.fields, **fields}),
            send_images=flag(self.given, "send_images", default=True),
            save_images=flag(self.given, "save_images", default=False)
            and not flag(self.given, "do_not_save_samples", default=False),
            notices=(*self.notices, *notices),
        )


def read_body(
    body: Mapping[str, Any],
    catalog: Catalog,
    library: Library,
    *,
    reads: Collection[str],
    neutral: Mapping[str, tuple[object, ...]] | None = None,
    settings: Collection[str] = (),
) -> GenerationBody:
    """Read what both bodies have.

    reads: names in the body that the caller reads, or that mean nothing there. neutral: values at which others change
    nothing. settings: names in `override_settings` that the caller reads.
    Raises RequestError in our words, NotSupported for what asks for more than we can do, and UnknownName.
    """
    given = {name: value for name, value in body.items() if value is not None}
    notices: list[str] = []
    fields = _fields_of_infotext(given, notices)
    for theirs, ours in _WHOLE.items():
        if theirs in given:
            fields[ours] = whole(given[theirs])
    fields.update({ours: given[theirs] for theirs, ours in _OTHERS.items() if theirs in given})
    fields.update(_sampling(given, fields, catalog.samplers, catalog.schedules))
    _check_eta(given, fields, catalog.samplers, notices)
    fields.update(_refiner(given, library))
    overriding = _settings_in(given)
    fields.update(_overridden(given, overriding, library, settings, notices))
    _check_the_rest(given, reads, {**_NEUTRAL, **(neutral or {})}, notices)
    left = {name: value for name, value in overriding.items() if name in settings and value is not None}
    return GenerationBody(given=given, fields=fields, settings=left, notices=tuple(notices))


def noise_source_name(value: Any) -> Any:
    """A1111's "GPU" is the generator that "NV" reproduces everywhere."""
    return "nv" if value == "GPU" else value


def _fields_of_infotext(given: Mapping[str, Any], notices: list[str]) -> dict[str, Any]:
    if not (text := given.get("infotext", "")):
        return {}
    if not isinstance(text, str):
        raise RequestError("infotext", f"must be text, not {type(text).__name__}")
    fields, told = request_from_infotext(read_infotext(text))
    notices.extend(told)
    return fields


def _sampling(
    given: Mapping[str, Any], fields: Mapping[str, Any], samplers: Registry[Sampler], schedules: Registry[Schedule]
) -> dict[str, Any]:
    """Sampler and schedule. A schedule inside the sampler's name counts more than one beside it, as A1111 has it."""
    name = given.get("sampler_name") or given.get("sampler_index")
    schedule = given.get("scheduler") or None
    if name is None:
        return {} if schedule is None else {"schedule": schedule}
    if not isinstance(name, str):
        raise RequestError("sampler", f"must be a name, not {type(name).__name__}")
    sampler, named = split_sampler_name(name, samplers, schedules)
    return {"sampler": sampler.name, "schedule": named or schedule or fields.get("schedule")}


def _check_eta(
    given: Mapping[str, Any], fields: Mapping[str, Any], samplers: Registry[Sampler], notices: list[str]
) -> None:
    """eta is how much noise a sampler puts back. Ours put back what they are made for: 1, or 0 where they draw none."""
    eta = given.get("eta")
    name = fields.get("sampler")
    if eta is None or eta == 1 or (eta == 0 and isinstance(name, str) and not samplers[name].uses_noise):
        if eta == 1 and name == "ddim":
            notices.append("eta 1 was not used: DDIM puts no noise back here, as with eta 0.")
        return
    raise NotSupported("eta", "Emulsion cannot change this yet. Leave it out")


def _refiner(given: Mapping[str, Any], library: Library) -> dict[str, Any]:
    if "refiner_checkpoint" not in given:
        return {}
    name = given["refiner_checkpoint"]
    if not isinstance(name, str):
        raise RequestError("refiner", f"must be a name, not {type(name).__name__}")
    if name in _NO_REFINER:
        return {"refiner": None}
    try:
        return {"refiner": library.find_checkpoint(name).name}
    except UnknownName as error:  # which does not know what the name was for
        raise RequestError("refiner", str(error)) from error


def _settings_in(given: Mapping[str, Any]) -> Mapping[str, Any]:
    settings = given.get("override_settings", {})
    if not isinstance(settings, dict):
        raise RequestError("override_settings", f"must be an object, not {type(settings).__name__}")
    return cast("dict[str, Any]", settings)


def _overridden(
    given: Mapping[str, Any],
    settings: Mapping[str, Any],
    library: Library,
    passed_over: Collection[str],
    notices: list[str],
) -> dict[str, Any]:
    """Fields from `override_settings`, which hold for this job alone."""
    fields: dict[str, Any] = {}
    for name, value in settings.items():
        if value is None or name in passed_over or (name in _SETTINGS and value == ""):
            continue
        if name in _SETTINGS:
            fields[_SETTINGS[name]] = _setting(name, value)
        elif name == _MODULES:
            fields.update(fields_of_modules(value, library))
        elif name in _NEUTRAL_SETTINGS:
            _check_neutral(f"override_settings.{name}", value, _NEUTRAL_SETTINGS[name])
        else:
            notices.append(f"override_settings.{name[:60]} is no setting of Emulsion and was not used.")
    if settings and given.get("override_settings_restore_afterwards") is False:
        notices.append("override_settings hold for this job alone; POST options changes them for all.")
    return fields


def _setting(name: str, value: Any) -> Any:
    match name:
        case "sd_vae":
            return None if value in OWN_VAE else value
        case "CLIP_stop_at_last_layers":
            return whole(value)
        case "randn_source":
            return noise_source_name(value)
        case _:
            return value


def _check_the_rest(
    given: Mapping[str, Any], reads: Collection[str], neutral: Mapping[str, tuple[object, ...]], notices: list[str]
) -> None:
    """Refuse what would change the picture, and tell what nobody knows."""
    known = _WHOLE.keys() | _OTHERS.keys() | _READ_BY_NAME | _MEANINGLESS | {*reads}
    for name, value in given.items():
        if name in known:
            continue
        if name in neutral:
            _check_neutral(name, value, neutral[name])
        else:
            notices.append(f"{name[:60]} is not known and was not used.")


def _check_neutral(name: str, value: Any, neutral: tuple[object, ...]) -> None:
    if value not in neutral:
        at = " or ".join(map(repr, neutral))
        raise NotSupported(name, f"Emulsion does not have this yet. Leave it out, or at {at}")


def whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def flag(given: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(name, f"must be true or false, not {value!r:.50}")
    return value
