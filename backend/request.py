"""What a user asks for: one frozen, validated type for the page, HTTP, the command line and extensions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from backend.adapter_row import AdapterRow, NameHash, name_hashes_from, row_mapping, rows_from
from backend.errors import RequestError
from backend.field_checks import (
    check_bool,
    check_int,
    check_name,
    check_number,
    check_prompt,
    checked_kind,
    checked_value,
    plain_values,
)
from backend.init_image import InitImage
from backend.limits import MAX_GUIDANCE, MAX_IMAGES, MAX_PIXELS, MAX_SIDE, MAX_STEPS, MIN_SIDE
from backend.recipe import Recipe, recipe_from
from backend.second_pass import Detailer, HiresFix, Tiles

MAX_DETAILERS = 16
DEFAULT_REFINER_SWITCH = 0.8  # what the refiner was published with
MIN_SHIFT, MAX_SHIFT = 0.01, 100.0
MAX_TEXT_ENCODERS = 4
MAX_SEED = 2**63 - 1
RANDOM_SEED = -1


class PredictionKind(str, Enum):
    """What a U-Net was trained to predict; weights do not show it."""

    EPS = "eps"
    V = "v"
    V_ZERO_SNR = "v_zero_snr"  # v, on noise levels that end without any signal

    @property
    def is_velocity(self) -> bool:
        return self is not PredictionKind.EPS


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A picture as asked for. None means: whatever suits the checkpoint.

    checkpoint, vae, sampler, schedule, emphasis, noise_source: names as the catalog lists them, or their aliases.
    recipe: makes the model out of others; `checkpoint` is then passed over.
    width, height: pixels, multiples of 8; of the first pass.
    adapters: LoRAs that are added, beside those that tags in the prompt ask for.
    name_hashes: which files the names in the prompt's tags mean; without one, a name is looked up as it is.
    skips_missing_adapters: go on without adapters that are not there, and say so, in place of refusing.
    text_encoders: files in models/text_encoders that are used in place of what the checkpoint holds or finds itself.
    guidance_scale: 1 switches classifier-free guidance, and the negative prompt, off.
    distilled_guidance: the scale that models with a guidance embedding (FLUX.1 dev, LCM) are told.
    prediction: what a U-Net (SD 1.x, 2.x, SDXL) predicts, in place of what its file says; others pass it over.
    guidance_rescale: how much of the guided result's contrast is pulled back to the unguided one's, 0 to 1.
    shift: of the noise levels of flow models (SD 3, FLUX.1).
    refiner: a checkpoint that finishes the picture. refiner_switch: the share of the steps after which it takes over;
    refiner_switch_timestep: the timestep (0 to 999) from which on it does, in place of that share.
    seed: of the first image; image k has seed + k. -1 draws one.
    batch_size: images that are made together; batch_count: batches that are made one after the other.
    use_ema: take the averaged (EMA) weights of a checkpoint that holds both.
    exact_batches: make every image of a batch on its own, so that it has the same bytes as the image made alone.
    init: a picture to begin with, in place of nothing but noise; width and height None are then its own.
    hires: a second pass on the enlarged picture. tiles: how both passes make what is too large for one piece.
    detailers: regions that are made again at last, one after the other.

    Raises RequestError, which names the field.
    """

    prompt: str = ""
    negative_prompt: str = ""
    checkpoint: str | None = None
    recipe: Recipe | None = None
    vae: str | None = None
    text_encoders: tuple[str, ...] = ()
    sampler: str | None = None
    schedule: str | None = None
    steps: int | None = None
    width: int | None = None
    height: int | None = None
    guidance_scale: float | None = None
    distilled_guidance: float | None = None
    guidance_rescale: float | None = None
    prediction: PredictionKind | None = None
    shift: float | None = None
    refiner: str | None = None
    refiner_switch: float = DEFAULT_REFINER_SWITCH
    refiner_switch_timestep: int | None = None
    seed: int = RANDOM_SEED
    batch_size: int = 1
    batch_count: int = 1
    clip_skip: int | None = None
    emphasis: str | None = None
    noise_source: str | None = None
    use_ema: bool = False
    exact_batches: bool | None = None
    adapters: tuple[AdapterRow, ...] = ()
    name_hashes: tuple[NameHash, ...] = ()
    skips_missing_adapters: bool = False
    init: InitImage | None = None
    hires: HiresFix | None = None
    tiles: Tiles | None = None
    detailers: tuple[Detailer, ...] = ()

    def __post_init__(self) -> None:
        for field in ("prompt", "negative_prompt"):
            check_prompt(field, getattr(self, field))
        for field in ("checkpoint", "vae", "refiner", "sampler", "schedule", "emphasis", "noise_source"):
            check_name(field, getattr(self, field))
        object.__setattr__(self, "recipe", _checked_recipe(self.recipe))
        check_int("steps", self.steps, 1, MAX_STEPS)
        _check_side("width", self.width)
        _check_side("height", self.height)
        if self.width and self.height:
            check_size("width", self.width, self.height)
        check_number("guidance_scale", self.guidance_scale, 0.0, MAX_GUIDANCE)
        check_number("distilled_guidance", self.distilled_guidance, 0.0, MAX_GUIDANCE)
        check_number("guidance_rescale", self.guidance_rescale, 0.0, 1.0)
        check_number("shift", self.shift, MIN_SHIFT, MAX_SHIFT)
        check_number("refiner_switch", self.refiner_switch, 0.0, 1.0, optional=False)
        check_int("refiner_switch_timestep", self.refiner_switch_timestep, 0, 999)
        if self.prediction is not None:
            object.__setattr__(self, "prediction", checked_kind("prediction", PredictionKind, self.prediction))
        object.__setattr__(self, "text_encoders", _checked_names("text_encoders", self.text_encoders))
        check_int("seed", self.seed, RANDOM_SEED, MAX_SEED, optional=False)
        check_int("batch_size", self.batch_size, 1, MAX_IMAGES, optional=False)
        check_int("batch_count", self.batch_count, 1, MAX_IMAGES, optional=False)
        if self.batch_size * self.batch_count > MAX_IMAGES:
            raise RequestError("batch_count", f"a job makes at most {MAX_IMAGES} images; this is "
                               f"{self.batch_size} x {self.batch_count}")  # fmt: skip
        check_int("clip_skip", self.clip_skip, 1, 12)
        check_bool("use_ema", self.use_ema, optional=False)
        check_bool("exact_batches", self.exact_batches)
        object.__setattr__(self, "adapters", rows_from(self.adapters))
        object.__setattr__(self, "name_hashes", name_hashes_from(self.name_hashes, "name_hashes"))
        check_bool("skips_missing_adapters", self.skips_missing_adapters, optional=False)
        for field, kind in (("init", InitImage), ("hires", HiresFix), ("tiles", Tiles)):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, checked_value(field, kind, getattr(self, field)))
        object.__setattr__(self, "detailers", _checked_detailers(self.detailers))

    @property
    def pictures(self) -> tuple[str, ...]:
        """Hashes of the stored pictures that must be there."""
        masks = [one.mask for one in self.detailers if one.is_on and one.mask is not None]
        return (*(self.init.pictures if self.init else ()), *masks)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> GenerationRequest:
        """Build a request from JSON values. Raises RequestError for an unknown field, too."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise RequestError(str(name)[:100], f"is not a field of a request. Known: {', '.join(sorted(known))}")
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """The fields as JSON values; `from_mapping` gives the same request back."""
        return {
            **plain_values(dataclasses.replace(self, recipe=None, adapters=(), name_hashes=())),
            "adapters": [row_mapping(row) for row in self.adapters],
            "name_hashes": {known.name: known.hash for known in self.name_hashes},
            "recipe": None if self.recipe is None else self.recipe.to_mapping(),
        }


def check_size(field: str, width: int, height: int) -> None:
    """Raise RequestError for a picture that is too large, or too small on one side."""
    if width * height > MAX_PIXELS:
        raise RequestError(field, f"{width} x {height} is more than {MAX_PIXELS:,} pixels; make it smaller")
    if min(width, height) < MIN_SIDE:
        raise RequestError(field, f"{width} x {height} has a side of less than {MIN_SIDE} pixels; make it larger")


def _checked_recipe(value: Any) -> Recipe | None:
    """A recipe; JSON gives an object."""
    return value if value is None or isinstance(value, Recipe) else recipe_from(value)


def _check_side(field: str, value: Any) -> None:
    check_int(field, value, MIN_SIDE, MAX_SIDE)
    if value is not None and value % 8:
        lower = value - value % 8
        raise RequestError(field, f"{value} is no multiple of 8; use {lower} or {lower + 8}")


def _checked_names(field: str, value: Any) -> tuple[str, ...]:
    """A tuple of names; JSON gives a list."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise RequestError(field, "must be a list of names")
    if len(value) > MAX_TEXT_ENCODERS:
        raise RequestError(field, f"has {len(value)} names; at most {MAX_TEXT_ENCODERS} are possible")
    return tuple(value)


def _checked_detailers(value: Any) -> tuple[Detailer, ...]:
    """Detailers; JSON gives a list of objects."""
    if not isinstance(value, list | tuple):
        raise RequestError("detailers", "must be a list")
    if len(value) > MAX_DETAILERS:
        raise RequestError("detailers", f"has {len(value)} entries; at most {MAX_DETAILERS} are possible")
    return tuple(checked_value(f"detailers[{index}]", Detailer, one) for index, one in enumerate(value))
