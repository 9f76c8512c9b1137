"""The latents of a model: to and from pictures through its autoencoder, and their colours for previews."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.diffusion.philox import normals
from backend.errors import NumericalError, UnsupportedCheckpoint
from backend.families.family import LatentPreview, Machine
from backend.families.parts import network_part, target_for
from backend.families.planning import plan_decoding, tile_of
from backend.families.unet_shapes import autoencoder_config_from
from backend.memory.dry_run import Call
from backend.memory.planner import Plan
from backend.memory.residency import Part
from backend.nn.autoencoder import Autoencoder, decode_sliced, decode_tiled
from backend.weights.source import WeightSource

_OVERLAP = 16  # of tiles, in latent pixels
_FEW_LATENTS = 16 * 16  # of which a decode takes less memory than finding out how much
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
        self.channels = channels
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

    def unscaled(self, latents: Tensor) -> Tensor:
        """The autoencoder's own latents of diffusion latents [B, C, h, w]."""
        return self._scaling.to_autoencoder(latents)

    def preview(self) -> LatentPreview:
        """The colours of latents, fitted once by least squares on what the autoencoder makes of smooth random ones."""
        if self._preview is None:
            self._preview = self._fitted_preview()
        return self._preview

    def _decode(self, latents: Tensor, dtype: torch.dtype) -> Tensor:
        height, width = latents.shape[-2:]
        plan = self._plan(height, width, dtype) if height * width > _FEW_LATENTS else None
        working = plan.working_bytes if plan else 0
        autoencoder = cast(Autoencoder, self._machine.residency.get(self._part(dtype), working))
        scaled = self._scaling.to_autoencoder(latents).to(dtype, memory_format=torch.channels_last)
        if plan and plan.tiles > 1:
            return decode_tiled(autoencoder, scaled, tile_of((height, width), plan.tiles, _OVERLAP), _OVERLAP)
        return decode_sliced(autoencoder, scaled).float()

    def decoding_plan(self, width: int, height: int) -> Plan:
        """For pictures of this size in pixels. Raises OutOfMemory."""
        return self._plan(height // 8, width // 8, self._machine.policy.autoencoder)

    def _plan(self, height: int, width: int, dtype: torch.dtype) -> Plan:
        channels = self.channels

        def call(height: int, width: int) -> Call:
            def decode(network: nn.Module, device: torch.device) -> object:
                latents = torch.empty(1, channels, height, width, dtype=dtype, device=device)
                return cast(Autoencoder, network).decode(latents.to(memory_format=torch.channels_last))

            return decode

        return plan_decoding(self._machine, self._part(dtype), (height, width), _OVERLAP, call)

    @torch.inference_mode()
    def _fitted_preview(self) -> LatentPreview:
        channels = self.channels
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
