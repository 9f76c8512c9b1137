"""What a way to a picture begins with, besides noise: latents of another picture, and where they may change."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from backend.diffusion.masking import blended
from backend.diffusion.noise import NoiseSource
from backend.diffusion.process import Process
from backend.init_image import InitImage, MaskedContent
from backend.pipeline.pixels import mask_tensor


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a picture is begun with; see `InitImage` and `MaskInput`."""

    is_soft: bool = False
    noise_multiplier: float = 1.0
    extra_noise: float = 0.0
    content: MaskedContent = MaskedContent.ORIGINAL
    conditioning_weight: float = 1.0
    image_guidance: float = 1.5


def manner_of(init: InitImage) -> Manner:
    mask = init.mask
    return Manner(
        is_soft=mask is not None and mask.soft,
        noise_multiplier=init.noise_multiplier,
        extra_noise=init.extra_noise,
        content=mask.content if mask else MaskedContent.ORIGINAL,
        conditioning_weight=mask.conditioning_weight if mask else 1.0,
        image_guidance=init.image_guidance,
    )


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """latents: [1 or B, C, h, w]. mask: [1, 1, h, w] in 0..1, 1 where they may change; None for everywhere."""

    latents: Tensor
    mask: Tensor | None = None
    manner: Manner = field(default_factory=Manner)

    def filled(self, noise: NoiseSource) -> Tensor:
        """The latents with what the masked part begins with."""
        if self.mask is None:
            return self.latents
        match self.manner.content:
            case MaskedContent.LATENT_NOISE:
                return blended(self.latents, noise(), self.mask)
            case MaskedContent.LATENT_NOTHING:
                return blended(self.latents, torch.zeros_like(self.latents), self.mask)
            case _:
                return self.latents

    def noised(self, noise: Tensor, filled: Tensor, process: Process, sigma: float) -> Tensor:
        """x at the first noise level. noise: [B, C, h, w], of unit variance."""
        mixed = process.alpha(sigma) * filled + sigma * self.manner.noise_multiplier * noise
        return mixed + self.manner.extra_noise * noise if self.manner.extra_noise else mixed


def latent_mask(mask: Image.Image, size: tuple[int, ...], *, is_soft: bool) -> Tensor:
    """A grey picture at the size (h, w) of latents, [1, 1, h, w], rounded to 0 and 1 unless it is soft."""
    small = mask_tensor(mask.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    return small if is_soft else small.round()
