"""The latents of a model: to and from pictures through its autoencoder, and their colours for previews."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.diffusion.philox import normals
from backend.errors import NumericalError, UnsupportedCheckpoint
from backend.families.family import LatentPreview, Machine
from backend.families.parts import network_part, target_for
from backend.families.unet_shapes import autoencoder_config_from
from backend.memory.residency import Part
from backend.nn.autoencoder import Autoencoder, decode_sliced, decode_tiled
from backend.weights.source import WeightSource

_TILE, _OVERLAP = 64, 16  # latent pixels
_DECODE_BYTES_PER_PIXEL = 768  # live activations at the autoencoder's widest, per pixel and byte of its type
# Patterns that the preview colours are fitted on, and latent pixels along their sides: few and small, because the
# autoencoder decodes them beside the first steps of sampling.
_FIT_PATTERNS, _FIT_SIZE = 4, 8


@dataclass(frozen=True, kw_only=True)
class LatentScaling:
    """diffusion latents = (autoencoder latents - shift) * factor. One number for all channels, or one for each."""

    factor: tuple[float, ...]
    shift: tuple[float, ...] = (0.0,)

    def to_autoencoder(self, latents: Tensor) -> Tensor:
        """Of diffusion latents [B, C, h, w]."""
        unscaled = latents / self._channels(self.factor, latents)
        return unscaled + self._channels(self.shift, latents) if any(self.shift) else unscaled

    def from_autoencoder(self, latents: Tensor) -> Tensor:
        """Of the autoencoder's latents [B, C, h, w]."""
        shifted = latents - self._channels(self.shift, latents) if any(self.shift) else latents
        return shifted * self._channels(self.factor, latents)

    @staticmethod
    def _channels(values: tuple[float, ...], like: Tensor) -> Tensor | float:
        if len(values) == 1:
            return values[0]
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


class LatentSpace:
    """An autoencoder, fetched from the residency when it is used, and the scaling of its latents.

    Raises KeysDoNotMatch for weights of no autoencoder, UnsupportedCheckpoint for one with other latents.
    """

    def __init__(
        self,
        source: WeightSource,
        machine: Machine,
        scaling: LatentScaling,
        *,
        channels: int,
        family_label: str,
        norm_groups: int = 32,
    ) -> None:
        self._source = source
        self._machine = machine
        self._scaling = scaling
        self._channels = channels
        self._config = autoencoder_config_from(source, norm_groups=norm_groups)
        self._preview: LatentPreview | None = None
        found = (self._config.latent_channels, self._config.downscale)
        if found != (channels, 8):
            raise UnsupportedCheckpoint(
                source.origin,
                f"its autoencoder has {found[0]} latent channels at 1/{found[1]} of the size; {family_label} needs "
                f"{channels} at 1/8. Choose another VAE.",
            )

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """The pictures [B, 3, H, W] float32, about -1..1, of diffusion latents [B, C, h, w].

        Raises NumericalError when the result holds values that are not numbers, in float32 too.
        """
        images = self._decode(latents, self._machine.policy.autoencoder)
        if not bool(images.isfinite().all()) and self._machine.policy.autoencoder != torch.float32:
            images = self._decode(latents, torch.float32)
        if not bool(images.isfinite().all()):
            raise NumericalError(
                "The autoencoder's picture holds values that are not numbers: the checkpoint or its VAE is damaged, "
                "or the guidance scale is far too high. Choose another VAE, or lower the guidance scale."
            )
        return images

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """The diffusion latents [B, C, h, w], float32, of pictures [B, 3, H, W] in -1..1: their means."""
        dtype = self._machine.policy.autoencoder
        autoencoder = self._autoencoder(dtype)
        images = images.to(self._machine.device.torch_device, dtype, memory_format=torch.channels_last)
        means = torch.cat([autoencoder.encode(image)[0] for image in images.split(1)])
        return self._scaling.from_autoencoder(means.float())

    def preview(self) -> LatentPreview:
        """The colours of latents, fitted once by least squares on what the autoencoder makes of smooth random ones."""
        if self._preview is None:
            self._preview = self._fitted_preview()
        return self._preview

    def _decode(self, latents: Tensor, dtype: torch.dtype) -> Tensor:
        autoencoder = self._autoencoder(dtype)
        scaled = self._scaling.to_autoencoder(latents).to(dtype, memory_format=torch.channels_last)
        height, width = latents.shape[-2:]
        live = height * width * 64 * _DECODE_BYTES_PER_PIXEL * dtype.itemsize * autoencoder.config.channels // 128
        if live > self._machine.device.free_bytes() and max(height, width) > _TILE:
            return decode_tiled(autoencoder, scaled, _TILE, _OVERLAP)
        return decode_sliced(autoencoder, scaled).float()

    @torch.inference_mode()
    def _fitted_preview(self) -> LatentPreview:
        channels = self._channels
        coarse = normals(0, 0, _FIT_PATTERNS * channels * 4 * 4).view(_FIT_PATTERNS, channels, 4, 4)
        latents = F.interpolate(coarse, scale_factor=_FIT_SIZE // 4, mode="bicubic")
        images = self._decode(latents.to(self._machine.device.torch_device), self._machine.policy.autoencoder)
        colours = F.avg_pool2d(images.float().cpu() / 2 + 0.5, 8).permute(0, 2, 3, 1).reshape(-1, 3)
        inputs = latents.permute(0, 2, 3, 1).reshape(-1, channels)
        inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
        solution = torch.linalg.lstsq(inputs, colours).solution  # [C + 1, 3]
        return LatentPreview(matrix=solution[:channels], bias=solution[channels])

    def _autoencoder(self, dtype: torch.dtype) -> Autoencoder:
        return cast(Autoencoder, self._machine.residency.get(self._part(dtype)))

    def _part(self, dtype: torch.dtype) -> Part:
        config = self._config
        return network_part("autoencoder", self._source, target_for(self._machine, dtype), lambda: Autoencoder(config))
