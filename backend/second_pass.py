"""What happens to a picture after its first pass: hires fix, tiles, and details made again at the full size."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from backend.errors import RequestError
from backend.field_checks import (
    check_bool,
    check_int,
    check_name,
    check_number,
    check_picture,
    check_prompt,
    checked_kind,
    checked_value,
)
from backend.init_image import MAX_BLUR, MAX_PADDING
from backend.limits import MAX_GUIDANCE, MAX_SIDE, MAX_STEPS, MIN_SIDE

MAX_REGIONS = 64
LARGEST_SCALE = 8.0


@dataclass(frozen=True, kw_only=True)
class HiresFix:
    """The picture is enlarged and made again, with as much noise as `denoising_strength` says.

    scale: of both sides. width, height: in place of it; with only one of them the other follows the picture's shape,
    and with both the picture covers the size and what hangs over is cut off, in latents.
    upscaler: a name in the catalog: one of six latent modes, a way of resampling, or a network.
    steps, sampler, schedule, guidance_scale, checkpoint: None for those of the first pass.
    prompt, negative_prompt: "" for those of the first pass.
    """

    scale: float = 2.0
    width: int | None = None
    height: int | None = None
    upscaler: str = "latent"
    denoising_strength: float = 0.7
    steps: int | None = None
    sampler: str | None = None
    schedule: str | None = None
    guidance_scale: float | None = None
    checkpoint: str | None = None
    prompt: str = ""
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        check_number("scale", self.scale, 1, LARGEST_SCALE, optional=False)
        check_int("width", self.width, MIN_SIDE, MAX_SIDE)
        check_int("height", self.height, MIN_SIDE, MAX_SIDE)
        check_number("denoising_strength", self.denoising_strength, 0, 1, optional=False)
        check_int("steps", self.steps, 1, MAX_STEPS)
        check_number("guidance_scale", self.guidance_scale, 0, MAX_GUIDANCE)
        check_name("upscaler", self.upscaler, optional=False)
        for field in ("sampler", "schedule", "checkpoint"):
            check_name(field, getattr(self, field))
        for field in ("prompt", "negative_prompt"):
            check_prompt(field, getattr(self, field))


class TileMethod(str, Enum):
    """How a picture larger than the network was trained for is made in tiles."""

    MULTI_DIFFUSION = "multidiffusion"  # every step in all tiles, averaged where they overlap (Bar-Tal et al. 2023)
    SEPARATE = (
        "separate"  # every tile to its end, blended as pictures ("SD upscale"); only with a picture to begin with
    )


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """size, overlap: of square tiles, in pixels, multiples of 8."""

    method: TileMethod = TileMethod.MULTI_DIFFUSION
    size: int = 768
    overlap: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", checked_kind("method", TileMethod, self.method))
        check_int("size", self.size, 128, 4096, optional=False)
        check_int("overlap", self.overlap, 0, 2048, optional=False)
        for field in ("size", "overlap"):
            if getattr(self, field) % 8:
                raise RequestError(field, f"{getattr(self, field)} is no multiple of 8")
        if self.overlap > self.size // 2:
            raise RequestError("overlap", f"{self.overlap} is more than half of the tiles' size, {self.size}")


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """In pixels of the finished picture."""

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        for field, low in (("x", 0), ("y", 0), ("width", 1), ("height", 1)):
            check_int(field, getattr(self, field), low, MAX_SIDE, optional=False)


@dataclass(frozen=True, kw_only=True)
class Detailer:
    """Regions of the finished picture are cut out, made again at the network's size and put back.

    Which ones: `rectangles`, the parts of a stored mask `mask` (hash), or what the detector of this name finds
    (extensions register detectors); exactly one of the three.
    size: side, in pixels, at which a region is made; None for the model's native size.
    prompt, negative_prompt: "" for those of the picture.
    """

    rectangles: tuple[Rectangle, ...] = ()
    mask: str | None = None
    detector: str | None = None
    denoising_strength: float = 0.4
    padding: int = 32
    blur: float = 4.0
    size: int | None = None
    steps: int | None = None
    prompt: str = ""
    negative_prompt: str = ""
    is_on: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "rectangles", _checked_rectangles(self.rectangles))
        if self.mask is not None:
            check_picture("mask", self.mask)
        check_name("detector", self.detector)
        if sum((bool(self.rectangles), self.mask is not None, self.detector is not None)) != 1:
            raise RequestError("rectangles", "give either rectangles, or a mask, or the name of a detector")
        check_number("denoising_strength", self.denoising_strength, 0, 1, optional=False)
        check_int("padding", self.padding, 0, MAX_PADDING, optional=False)
        check_number("blur", self.blur, 0, MAX_BLUR, optional=False)
        check_int("size", self.size, MIN_SIDE, 4096)
        check_int("steps", self.steps, 1, MAX_STEPS)
        for field in ("prompt", "negative_prompt"):
            check_prompt(field, getattr(self, field))
        check_bool("is_on", self.is_on, optional=False)


def _checked_rectangles(value: Any) -> tuple[Rectangle, ...]:
    if not isinstance(value, list | tuple):
        raise RequestError("rectangles", "must be a list of rectangles")
    if len(value) > MAX_REGIONS:
        raise RequestError("rectangles", f"has {len(value)} entries; at most {MAX_REGIONS} are possible")
    return tuple(checked_value(f"rectangles[{index}]", Rectangle, one) for index, one in enumerate(value))
