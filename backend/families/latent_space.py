"""The latents of a model: to and from pictures through its autoencoder, and their colours for previews."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.diffusion.philox import normals
from backend.errors import NumericalError, UnsupportedCheckpoint
from backend.families.family import LatentPreview, Machine, Preview
from backend.families.parts import network_part, target_for
from backend.families.planning import plan_in_tiles, tile_of
from backend.families.tiny_decoders import KINDS, TAESDXL, TinyKind, TinyPreview
from backend.families.unet_shapes import autoencoder_config_from
from backend.memory.dry_run import Call
from backend.memory.planner import Plan
from backend.memory.residency import Part
from backend.nn.autoencoder import Autoencoder, decode_sliced
from backend.nn.tiled_autoencoder import (
    decode_first_tile,
    decode_tiled,
    decoding_reach,
    encode_first_tile,
    encode_tiled,
    encoding_reach,
)
from backend.weights.source import WeightSource

_FEW_LATENTS = 16 * 16  # which take less memory than finding out how much
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

    @property
    def kind(self) -> object:
        """Equal for latents of the same autoencoders, scaled alike."""
        return self.channels, self._scaling

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """The pictures [B, 3, H, W] float32, about -1..1, of diffusion latents [B, C, h, w].

        Raises NumericalError when the result holds values that are not numbers, in float32 too.
        """
        return self._in_numbers(
            lambda dtype: self._decode(latents, dtype),
            what="picture",
            advice="the checkpoint or its VAE is damaged, or the guidance scale is far too high. Choose another VAE, "
            "or lower the guidance scale.",
        )

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """The diffusion latents [B, C, h, w], float32, of pictures [B, 3, H, W] in -1..1: their means.

        Raises NumericalError when the result holds values that are not numbers, in float32 too.
        """
        return self._in_numbers(
            lambda dtype: self._encode(images, dtype),
            what="latents of a picture",
            advice="the checkpoint or its VAE is damaged. Choose another VAE.",
        )

    def unscaled(self, latents: Tensor) -> Tensor:
        """The autoencoder's own latents of diffusion latents [B, C, h, w]."""
        return self._scaling.to_autoencoder(latents)

    def preview(self) -> Preview:
        """By a file of TAESD, where there is one for these latents.

        Or else their colours, fitted once by least squares on what the autoencoder makes of smooth random ones.
        """
        kind = self._tiny_kind
        decoder = None if kind is None else self._machine.tiny_decoders.find(kind)
        if kind is not None and decoder is not None:
            theirs = LatentScaling(factor=(kind.factor,), shift=(kind.shift,))
            return TinyPreview(
                decoder=decoder,
                to_tiny=lambda latents: theirs.from_autoencoder(self._scaling.to_autoencoder(latents)),
            )
        if self._preview is None:
            self._preview = self._fitted_preview()
        return self._preview

    @property
    def _tiny_kind(self) -> TinyKind | None:
        """Which TAESD knows these latents: none knows those of an autoencoder of another shape than the usual one."""
        if (self._config.channels, self._config.channel_mult) != (128, (1, 2, 4, 4)):
            return None
        factors = self._scaling.factor
        if len(factors) > 1:  # Playground v2.5: SDXL's autoencoder, each channel scaled by itself
            return TAESDXL
        return next((kind for kind in KINDS if (kind.channels, kind.factor) == (self.channels, *factors)), None)

    def decoding_plan(self, width: int, height: int) -> Plan:
        """For pictures of this size in pixels. Raises OutOfMemory."""
        return self._decoding_plan(height // 8, width // 8, self._machine.policy.autoencoder)

    def encoding_plan(self, width: int, height: int) -> Plan:
        """For pictures of this size in pixels. Raises OutOfMemory."""
        return self._encoding_plan(height // 8, width // 8, self._machine.policy.autoencoder)

    def _in_numbers(self, compute: Callable[[torch.dtype], Tensor], *, what: str, advice: str) -> Tensor:
        """What is computed in the type that the machine is fastest in, or in float32 if that type is too narrow.

        Not remembered from one picture to the next: each is what it would be alone.
        """
        dtype = self._machine.policy.autoencoder
        result = compute(dtype)
        if not bool(result.isfinite().all()) and dtype != torch.float32:
            name = str(dtype).removeprefix("torch.")
            self._machine.notices.tell(
                f"The VAE's {what} held values that are not numbers in {name} and came out in float32 instead, which "
                f"takes longer. A VAE that is made for {name} avoids that."
            )
            result = compute(torch.float32)
        if not bool(result.isfinite().all()):
            raise NumericalError(f"The autoencoder's {what} holds values that are not numbers: {advice}")
        return result

    def _decode(self, latents: Tensor, dtype: torch.dtype) -> Tensor:
        height, width = latents.shape[-2:]
        plan = self._decoding_plan(height, width, dtype) if height * width > _FEW_LATENTS else None
        autoencoder = self._autoencoder(dtype, plan)
        scaled = self._scaling.to_autoencoder(latents).to(dtype, memory_format=torch.channels_last)
        if plan and plan.tiles > 1:
            return decode_tiled(autoencoder, scaled, tile_of((height, width), plan.tiles, self._decoding_overlap))
        return decode_sliced(autoencoder, scaled).float()

    def _encode(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        height, width = (side // 8 for side in images.shape[-2:])
        plan = self._encoding_plan(height, width, dtype) if height * width > _FEW_LATENTS else None
        autoencoder = self._autoencoder(dtype, plan)
        images = images.to(self._machine.device.torch_device, dtype, memory_format=torch.channels_last)
        if plan and plan.tiles > 1:
            means = encode_tiled(autoencoder, images, tile_of((height, width), plan.tiles, self._encoding_overlap))
        else:
            means = torch.cat([autoencoder.encode(image)[0] for image in images.split(1)])
        return self._scaling.from_autoencoder(means.float())

    @property
    def _decoding_overlap(self) -> int:
        return 2 * decoding_reach(self._config)

    @property
    def _encoding_overlap(self) -> int:
        return 2 * encoding_reach(self._config)

    def _decoding_plan(self, height: int, width: int, dtype: torch.dtype) -> Plan:
        channels = self.channels

        def call(tile: int | None) -> Call:
            def decode(network: nn.Module, device: torch.device) -> object:
                latents = torch.empty(1, channels, height, width, dtype=dtype, device=device)
                latents = latents.to(memory_format=torch.channels_last)
                autoencoder = cast(Autoencoder, network)
                if tile is None:
                    return autoencoder.decode(latents)
                return decode_first_tile(autoencoder, latents, tile)

            return decode

        return plan_in_tiles(self._machine, self._part(dtype), (height, width), self._decoding_overlap, "decode", call)

    def _encoding_plan(self, height: int, width: int, dtype: torch.dtype) -> Plan:
        def call(tile: int | None) -> Call:
            def encode(network: nn.Module, device: torch.device) -> object:
                image = torch.empty(1, 3, 8 * height, 8 * width, dtype=dtype, device=device)
                image = image.to(memory_format=torch.channels_last)
                autoencoder = cast(Autoencoder, network)
                return autoencoder.encode(image) if tile is None else encode_first_tile(autoencoder, image, tile)

            return encode

        return plan_in_tiles(self._machine, self._part(dtype), (height, width), self._encoding_overlap, "encode", call)

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

    def _autoencoder(self, dtype: torch.dtype, plan: Plan | None) -> Autoencoder:
        working = plan.working_bytes if plan else 0
        return cast(Autoencoder, self._machine.residency.get(self._part(dtype), working))

    def _part(self, dtype: torch.dtype) -> Part:
        config = self._config
        return network_part("autoencoder", self._source, target_for(self._machine, dtype), lambda: Autoencoder(config))
