"""What all families with a U-Net share: a `Model` of a U-Net, an autoencoder and a way to read prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from backend.diffusion.guidance import ConditionedNetwork, Conditioning
from backend.diffusion.levels import Levels
from backend.diffusion.prediction import Prediction
from backend.diffusion.process import Process, VarianceExploding
from backend.errors import UnsupportedCheckpoint
from backend.families.family import LatentPreview, Machine, Prompt
from backend.families.latent_space import LatentSpace
from backend.families.parts import network_part, target_for
from backend.nn.unet import UNet, UNetConfig
from backend.weights.source import WeightSource

UNET = "model.diffusion_model."
VAE = "first_stage_model."
_CHANNELS = (4, 8, 9)


class UNetModel:
    """A `Model`. unet: the source of the U-Net's weights under their own names. Raises UnsupportedCheckpoint."""

    def __init__(
        self,
        *,
        family: str,
        unet: WeightSource,
        config: UNetConfig,
        latents: LatentSpace,
        levels: Levels,
        prediction: Prediction,
        encode_prompt: Callable[[Prompt], Conditioning],
        machine: Machine,
    ) -> None:
        if config.in_channels not in _CHANNELS:
            raise UnsupportedCheckpoint(
                unet.origin,
                f"its U-Net takes {config.in_channels} channels; 4 (text to image), 8 (InstructPix2Pix) and 9 "
                "(inpainting) are known. Choose another checkpoint.",
            )
        self.family = family
        self.prediction = prediction
        self.process: Process = VarianceExploding()
        self._levels = levels
        self._encode_prompt = encode_prompt
        self._latents = latents
        self._machine = machine
        self._unet = network_part("U-Net", unet, target_for(machine, machine.policy.unet), lambda: UNet(config))

    def levels(self, width: int, height: int, shift: float | None) -> Levels:
        return self._levels

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return 4, height // 8, width // 8

    def encode_prompt(self, prompt: Prompt) -> Conditioning:
        return self._encode_prompt(prompt)

    def network(self, timesteps: Sequence[float]) -> ConditionedNetwork:
        unet = cast(UNet, self._machine.residency.get(self._unet))
        dtype = self._machine.policy.unet
        blank: dict[tuple[int, int], Tensor] = {}

        @torch.inference_mode()
        def predict(x: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            batch, channels, height, width = x.shape
            images = batch // conditioning.groups
            if unet.config.in_channels > channels:
                extra = conditioning.image
                if extra is None:
                    if (height, width) not in blank:
                        blank[height, width] = self._blank_image(unet.config.in_channels, height, width)
                    extra = blank[height, width]
                extra = extra.to(x).repeat_interleave(batch // extra.shape[0], dim=0)
                x = torch.cat([x, extra], dim=1)
            x = x.to(dtype, memory_format=torch.channels_last)
            context = conditioning.context.to(x).repeat_interleave(images, dim=0)
            y = None if conditioning.vector is None else conditioning.vector.to(x).repeat_interleave(images, dim=0)
            return unet(x, timesteps, context, y).float().contiguous()

        return predict

    def decode(self, latents: Tensor) -> Tensor:
        return self._latents.decode(latents)

    def encode(self, images: Tensor) -> Tensor:
        return self._latents.encode(images)

    def latent_preview(self) -> LatentPreview:
        return self._latents.preview()

    def _blank_image(self, in_channels: int, height: int, width: int) -> Tensor:
        """What U-Nets with extra channels are given when there is no picture to change: [1, in_channels - 4, h, w].

        9 channels (inpainting): a mask that covers everything and the latents of a grey picture. 8 channels
        (InstructPix2Pix): no picture at all, which is zeros.
        """
        if in_channels == 8:
            return torch.zeros(1, 4, height, width)
        latents = self.encode(torch.zeros(1, 3, height * 8, width * 8))
        return torch.cat([torch.ones_like(latents[:, :1]), latents], dim=1)
