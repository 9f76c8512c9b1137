"""Latents of a larger picture by interpolation, the first choice of A1111's hires fix."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LatentUpscaler:
    """A registered way to enlarge latents. mode: see `torch.nn.functional.interpolate`."""

    name: str
    label: str
    mode: str
    antialias: bool = False
    aliases: tuple[str, ...] = ()

    def enlarge(self, latents: Tensor, height: int, width: int) -> Tensor:
        """Latents [B, C, h, w] as [B, C, height, width]."""
        return F.interpolate(latents, size=(height, width), mode=self.mode, antialias=self.antialias)


# Names and ways are A1111's.
BUILTIN = (
    LatentUpscaler(name="latent", label="Latent", mode="bilinear"),
    LatentUpscaler(name="latent_antialiased", label="Latent (antialiased)", mode="bilinear", antialias=True),
    LatentUpscaler(name="latent_bicubic", label="Latent (bicubic)", mode="bicubic"),
    LatentUpscaler(
        name="latent_bicubic_antialiased", label="Latent (bicubic antialiased)", mode="bicubic", antialias=True
    ),
    LatentUpscaler(name="latent_nearest", label="Latent (nearest)", mode="nearest"),
    LatentUpscaler(name="latent_nearest_exact", label="Latent (nearest-exact)", mode="nearest-exact"),
)
