"""What a picture is made from besides words: a picture to begin with, which part of it may change, and borders."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from backend.errors import RequestError
from backend.field_checks import (
    check_bool,
    check_int,
    check_name,
    check_number,
    check_picture,
    checked_kind,
    checked_value,
)

MAX_BLUR = 256
MAX_PADDING = 1024
MAX_BORDER = 4096
MAX_IMAGE_GUIDANCE = 30.0
DEFAULT_STRENGTH = 0.75


class ResizeMode(str, Enum):
    """How a picture comes to the size that is asked for."""

    STRETCH = "stretch"
    CROP = "crop"  # it covers the size, and what hangs over is cut off
    FILL = "fill"  # it fits into the size, and the rest continues its edges
    LATENT = "latent"  # stretched as latents, behind the autoencoder


class MaskedContent(str, Enum):
    """What the masked part begins with."""

    FILL = "fill"  # colours from around the mask
    ORIGINAL = "original"
    LATENT_NOISE = "latent_noise"
    LATENT_NOTHING = "latent_nothing"


class InpaintArea(str, Enum):
    WHOLE = "whole"
    MASKED = "masked"  # the mask's surroundings are cut out, made at the full size and put back


class BorderFill(str, Enum):
    """What a new border begins with."""

    MIRROR = "mirror"  # the picture mirrored at its edge, more blurred further out
    EDGE_NOISE = "edge_noise"  # noise with the colours and the spectrum of the picture near its edge


@dataclass(frozen=True, kw_only=True)
class MaskInput:
    """Which part of the picture may change.

    picture: hash of the stored mask as it was painted: white (or opaque, if it has an alpha channel) is to change.
    inverted: the rest is to change. blur: standard deviation in pixels of the picture.
    area, padding: see `InpaintArea`; padding in pixels around the mask.
    soft: grey is kept up to a noise level of its own, the darker the longer (differential diffusion, Levin and Fried
    2023); without it, masks are rounded in the latents.
    conditioning_weight: how much an inpainting network sees of what is masked out: 1 nothing, 0 everything.
    """

    picture: str
    inverted: bool = False
    blur: float = 4.0
    content: MaskedContent = MaskedContent.ORIGINAL
    area: InpaintArea = InpaintArea.WHOLE
    padding: int = 32
    soft: bool = False
    conditioning_weight: float = 1.0

    def __post_init__(self) -> None:
        check_picture("picture", self.picture)
        check_bool("inverted", self.inverted, optional=False)
        check_number("blur", self.blur, 0, MAX_BLUR, optional=False)
        object.__setattr__(self, "content", checked_kind("content", MaskedContent, self.content))
        object.__setattr__(self, "area", checked_kind("area", InpaintArea, self.area))
        check_int("padding", self.padding, 0, MAX_PADDING, optional=False)
        check_bool("soft", self.soft, optional=False)
        check_number("conditioning_weight", self.conditioning_weight, 0, 1, optional=False)


@dataclass(frozen=True, kw_only=True)
class Borders:
    """New pixels around the picture, which are made up (outpainting).

    overlap: how far inside of the old edge the new part reaches over softly, in pixels.
    """

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0
    fill: BorderFill = BorderFill.MIRROR
    overlap: int = 32

    def __post_init__(self) -> None:
        for side in ("left", "top", "right", "bottom"):
            check_int(side, getattr(self, side), 0, MAX_BORDER, optional=False)
        if not (self.left or self.top or self.right or self.bottom):
            raise RequestError("left", "all four borders are 0; give at least one side some pixels")
        object.__setattr__(self, "fill", checked_kind("fill", BorderFill, self.fill))
        check_int("overlap", self.overlap, 0, 512, optional=False)


@dataclass(frozen=True, kw_only=True)
class InitImage:
    """A picture to begin with (img2img, inpainting, outpainting).

    picture: hash of the stored file. denoising_strength: 0 keeps it, 1 keeps next to nothing.
    exact_steps: make as many steps as asked for, on a longer schedule; else only the share that the strength leaves.
    resize: to the width and height of the request. upscaler: what enlarges it, by name; None for Lanczos.
    noise_multiplier: of the noise that is mixed in. extra_noise: added to the latents besides, in standard deviations.
    color_correction: give the result the colours of the picture.
    image_guidance: how closely an InstructPix2Pix network keeps to the picture.
    mask: None to change everything. borders: None for no new ones.
    """

    picture: str
    denoising_strength: float = DEFAULT_STRENGTH
    exact_steps: bool = False
    resize: ResizeMode = ResizeMode.CROP
    upscaler: str | None = None
    noise_multiplier: float = 1.0
    extra_noise: float = 0.0
    color_correction: bool = False
    image_guidance: float = 1.5
    mask: MaskInput | None = None
    borders: Borders | None = None

    def __post_init__(self) -> None:
        check_picture("picture", self.picture)
        check_number("denoising_strength", self.denoising_strength, 0, 1, optional=False)
        check_bool("exact_steps", self.exact_steps, optional=False)
        object.__setattr__(self, "resize", checked_kind("resize", ResizeMode, self.resize))
        check_name("upscaler", self.upscaler)
        check_number("noise_multiplier", self.noise_multiplier, 0, 2, optional=False)
        check_number("extra_noise", self.extra_noise, 0, 1, optional=False)
        check_bool("color_correction", self.color_correction, optional=False)
        check_number("image_guidance", self.image_guidance, 0, MAX_IMAGE_GUIDANCE, optional=False)
        if self.mask is not None:
            object.__setattr__(self, "mask", checked_value("mask", MaskInput, self.mask))
        if self.borders is not None:
            object.__setattr__(self, "borders", checked_value("borders", Borders, self.borders))

    @property
    def pictures(self) -> tuple[str, ...]:
        """Hashes of everything that must be there."""
        return (self.picture, *([self.mask.picture] if self.mask else []))
