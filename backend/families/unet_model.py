"""What all families with a U-Net share: a `Model` of a U-Net, an autoencoder and a way to read prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from backend.diffusion.guidance import ConditionedNetwork, Conditioning, Text
from backend.diffusion.lcm_boundary import LcmBoundary
from backend.diffusion.levels import Levels
from backend.diffusion.prediction import Prediction
from backend.diffusion.process import VarianceExploding
from backend.errors import UnsupportedCheckpoint
from backend.families.autoencoder_files import autoencoder_of
from backend.families.family import Evaluation, Machine, ModelFiles, Prompt
from backend.families.file_facts import FileFacts, averaged
from backend.families.hypernetwork_files import HypernetworkUse
from backend.families.latent_model import LatentModel
from backend.families.latent_space import LatentScaling, LatentSpace
from backend.families.parts import network_part, target_for
from backend.families.picture_input import unet_picture_input
from backend.families.unet_files import unet_in
from backend.families.unet_shapes import unet_config_from
from backend.memory.dry_run import Call
from backend.memory.part import Part
from backend.nn.unet import KeysValues, UNet, UNetConfig, used_once
from backend.weights.assembled import Assembled, Component
from backend.weights.source import WeightSource

_CHANNELS = (4, 8, 9)


@dataclass(frozen=True, kw_only=True)
class UNetFamily:
    """What the models of one family have in common. num_heads, head_dim: see `UNetConfig`. needs: "an SD 1.x model"."""

    name: str
    needs: str
    num_heads: int | None = None
    head_dim: int | None = 64


class UNetModel(LatentModel):
    """A `Model`. Raises KeysDoNotMatch and UnsupportedCheckpoint."""

    def __init__(
        self,
        family: UNetFamily,
        files: ModelFiles,
        machine: Machine,
        *,
        scaling: LatentScaling,
        levels: Levels,
        prediction: Prediction,
        encode_prompt: Callable[[Prompt], Conditioning],
        text_parts: Sequence[Part],
    ) -> None:
        checkpoint = averaged(files.checkpoint) if files.use_ema else files.checkpoint
        facts = FileFacts(checkpoint)
        unet = unet_in(checkpoint)
        config = unet_config_from(
            unet,
            num_heads=facts.number("num_heads", 0) or family.num_heads,
            head_dim=family.head_dim,
            norm_groups=facts.number("norm_groups", 32),
        )
        if config.in_channels not in _CHANNELS:
            raise UnsupportedCheckpoint(
                checkpoint.origin,
                f"its U-Net takes {config.in_channels} channels; 4 (text to image), 8 (InstructPix2Pix) and 9 "
                "(inpainting) are known. Choose another checkpoint.",
            )
        target = target_for(machine, machine.policy.unet)
        hypernetworks = [use.file.config for use in files.hypernetworks]
        # A network that is told its guidance is a latent consistency model.
        is_told = config.guidance_width is not None
        super().__init__(
            family=family.name,
            machine=machine,
            part=network_part(
                "U-Net",
                _with_hypernetworks(unet, files.hypernetworks),
                target,
                lambda: UNet(config, hypernetworks),
                once=used_once(unet.keys()),
                often=_layers_of_hypernetworks(files.hypernetworks),
            ),
            call=partial(_call, config=config, dtype=target.dtype, num_hypernetworks=len(hypernetworks)),
            prediction=LcmBoundary(prediction=prediction, levels=levels) if is_told else prediction,
            process=VarianceExploding(),
            latents=LatentSpace(
                autoencoder_of(files),
                machine,
                scaling,
                channels=config.out_channels,
                family_label=family.needs,
                norm_groups=facts.number("vae_norm_groups", 32),
            ),
            encode_prompt=encode_prompt,
            text_parts=text_parts,
            picture=unet_picture_input(checkpoint),
        )
        self._levels = levels
        self._strengths = tuple(use.strength for use in files.hypernetworks)

    def levels(self, width: int, height: int, shift: float | None) -> Levels:
        return self._levels

    def network(self, timesteps: Sequence[float], working_bytes: int = 0) -> ConditionedNetwork:
        unet = cast(UNet, self.fetch(working_bytes))
        dtype = self._machine.policy.unet
        # A text is the same at every step, so what the layers attend to of it is computed once; the layers that do so
        # are an eighth of SDXL's weights and need not stay on the device.
        texts: dict[Text, KeysValues] = {}
        strengths = torch.tensor(self._strengths, device=self._machine.device.torch_device) if self._strengths else None
        joined = self.picture_joiner()

        @torch.inference_mode()
        def predict(x: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            x = joined(x, conditioning.image).to(dtype, memory_format=torch.channels_last)
            if conditioning.text not in texts:
                texts[conditioning.text] = unet.keys_values(conditioning.context.to(x), strengths)
            y = None if conditioning.vector is None else conditioning.vector.to(x)
            told = conditioning.guidance
            guidance = None if told is None else torch.full((conditioning.groups,), told, device=x.device)
            result = unet(x, timesteps, texts[conditioning.text], y, guidance=guidance, strengths=strengths)
            return result.float().contiguous()

        return self._machine.compiled(unet, predict)


def _with_hypernetworks(unet: WeightSource, uses: Sequence[HypernetworkUse]) -> WeightSource:
    """The weights of a U-Net and of what changes its contexts, by the names in `UNet`."""
    if not uses:
        return unet
    parts = (
        Component(source=use.file.source, name=f"hypernetworks.{index}.{{}}".format) for index, use in enumerate(uses)
    )
    return Assembled((Component(source=unet, name=str), *parts))


def _layers_of_hypernetworks(uses: Sequence[HypernetworkUse]) -> tuple[str, ...]:
    names = (f"hypernetworks.{index}.{key}" for index, use in enumerate(uses) for key in use.file.source.keys())
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _call(evaluation: Evaluation, *, config: UNetConfig, dtype: torch.dtype, num_hypernetworks: int) -> Call:
    def evaluate(network: nn.Module, device: torch.device) -> object:
        unet = cast(UNet, network)
        images = evaluation.images
        size = evaluation.height // 8, evaluation.width // 8
        x = torch.empty(images, config.in_channels, *size, dtype=dtype, device=device)
        context = torch.empty(images, evaluation.tokens, config.context_dim, dtype=dtype, device=device)
        adm = config.adm_in_channels
        y = None if adm is None else torch.empty(images, adm, dtype=dtype, device=device)
        guidance = None if config.guidance_width is None else torch.empty(images, device=device)
        x = x.to(memory_format=torch.channels_last)
        timesteps = torch.empty(images, device=device)
        strengths = torch.empty(num_hypernetworks, device=device) if num_hypernetworks else None
        return unet(x, timesteps, unet.keys_values(context, strengths), y, guidance=guidance, strengths=strengths)

    return evaluate
