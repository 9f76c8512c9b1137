"""What a user asks for: one frozen, validated type for the page, HTTP, the command line and extensions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.errors import RequestError

MAX_PROMPT_BYTES = 65_536
MAX_STEPS = 1000
MIN_SIDE = 64
MAX_SIDE = 16_384
MAX_PIXELS = 16_777_216
MAX_IMAGES = 64
MAX_GUIDANCE = 100.0
MAX_SEED = 2**63 - 1
RANDOM_SEED = -1


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A text-to-image job as asked for. None means: whatever suits the checkpoint.

    checkpoint, vae, sampler, schedule, emphasis, noise_source: names as the catalog lists them, or their aliases.
    width, height: pixels, multiples of 8.
    guidance_scale: 1 switches classifier-free guidance, and the negative prompt, off.
    seed: of the first image; image k has seed + k. -1 draws one.
    batch_size: images that are made together; batch_count: batches that are made one after the other.
    use_ema: take the averaged (EMA) weights of a checkpoint that holds both.
    exact_batches: make every image of a batch on its own, so that it has the same bytes as the image made alone.

    Raises RequestError, which names the field.
    """

    prompt: str = ""
    negative_prompt: str = ""
    checkpoint: str | None = None
    vae: str | None = None
    sampler: str | None = None
    schedule: str | None = None
    steps: int | None = None
    width: int | None = None
    height: int | None = None
    guidance_scale: float | None = None
    seed: int = RANDOM_SEED
    batch_size: int = 1
    batch_count: int = 1
    clip_skip: int | None = None
    emphasis: str | None = None
    noise_source: str | None = None
    use_ema: bool = False
    exact_batches: bool | None = None

    def __post_init__(self) -> None:
        for field in ("prompt", "negative_prompt"):
            _check_prompt(field, getattr(self, field))
        for field in ("checkpoint", "vae", "sampler", "schedule", "emphasis", "noise_source"):
            _check_name(field, getattr(self, field))
        _check_int("steps", self.steps, 1, MAX_STEPS)
        _check_side("width", self.width)
        _check_side("height", self.height)
        if self.width and self.height and self.width * self.height > MAX_PIXELS:
            raise RequestError(
                "width", f"{self.width} x {self.height} is more than {MAX_PIXELS:,} pixels; make it smaller"
            )
        _check_number("guidance_scale", self.guidance_scale, 0.0, MAX_GUIDANCE)
        _check_int("seed", self.seed, RANDOM_SEED, MAX_SEED, optional=False)
        _check_int("batch_size", self.batch_size, 1, MAX_IMAGES, optional=False)
        _check_int("batch_count", self.batch_count, 1, MAX_IMAGES, optional=False)
        if self.batch_size * self.batch_count > MAX_IMAGES:
            raise RequestError("batch_count", f"a job makes at most {MAX_IMAGES} images; this is "
                               f"{self.batch_size} x {self.batch_count}")  # fmt: skip
        _check_int("clip_skip", self.clip_skip, 1, 12)
        _check_bool("use_ema", self.use_ema, optional=False)
        _check_bool("exact_batches", self.exact_batches)

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
        return dataclasses.asdict(self)


def _check_prompt(field: str, value: Any) -> None:
    if not isinstance(value, str):
        raise RequestError(field, f"must be text, not {type(value).__name__}")
    if (size := len(value.encode("utf-8", "surrogatepass"))) > MAX_PROMPT_BYTES:
        raise RequestError(field, f"is {size:,} bytes long; at most {MAX_PROMPT_BYTES:,} are allowed. Shorten it")


def _check_name(field: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise RequestError(field, f"must be a name, not {type(value).__name__}")


def _check_bool(field: str, value: Any, *, optional: bool = True) -> None:
    if not isinstance(value, bool) and not (optional and value is None):
        raise RequestError(field, f"must be true or false, not {value!r}")


def _check_int(field: str, value: Any, low: int, high: int, *, optional: bool = True) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise RequestError(field, f"must be a whole number, not {value!r}")
    if not low <= value <= high:
        raise RequestError(field, f"{value} is outside {low} to {high}")


def _check_side(field: str, value: Any) -> None:
    _check_int(field, value, MIN_SIDE, MAX_SIDE)
    if value is not None and value % 8:
        lower = value - value % 8
        raise RequestError(field, f"{value} is no multiple of 8; use {lower} or {lower + 8}")


def _check_number(field: str, value: Any, low: float, high: float) -> None:
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise RequestError(field, f"must be a number, not {value!r}")
    if not low <= value <= high:
        raise RequestError(field, f"{value} is outside {low:g} to {high:g}")
