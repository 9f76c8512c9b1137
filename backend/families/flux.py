"""FLUX.1 [dev], [schnell], Fill and Kontext, and files of their transformer alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from backend.diffusion.flow_levels import FlowLevels, flux_shift
from backend.diffusion.guidance import Conditioning
from backend.diffusion.prediction import FlowPrediction
from backend.diffusion.process import RectifiedFlow
from backend.errors import UnsupportedCheckpoint
from backend.families.autoencoder_files import autoencoder_of, has_autoencoder
from backend.families.clip_reader import ClipReader, text_encoder_of
from backend.families.family import (
    Defaults,
    Description,
    Evaluation,
    Family,
    Machine,
    ModelFiles,
    PictureUse,
    Prompt,
)
from backend.families.latent_space import LatentScaling, LatentSpace
from backend.families.parts import network_part, target_for
from backend.families.picture_input import FLUX_FILL, FLUX_KONTEXT, PictureInput
from backend.families.t5_reader import T5Reader
from backend.families.transformer_files import (
    check_width,
    layers_used_once,
    transformer_in,
    transformer_prefix,
    with_few_steps,
)
from backend.families.transformer_model import TransformerModel
from backend.families.transformer_shapes import flux_config_from
from backend.memory.dry_run import Call
from backend.nn.flux import Flux, FluxConfig, is_used_once, token_rotations
from backend.text.clip_encoder import FLUX_CLIP_L
from backend.text.encoder_layouts import CLIP_L, T5, TOKENS, encoders_in
from backend.weights.source import WeightSource

NATIVE_SIZE = 1024
GUIDANCE = 3.5
FILL_GUIDANCE = 30.0

_SCALING = LatentScaling(factor=(0.3611,), shift=(0.1159,))
_LATENT_CHANNELS = 16
_DEV_TOKENS, _SCHNELL_TOKENS = 512, 256  # of a prompt, with padding, as they were trained
_NUM_LEVELS = 10_000
_ENCODERS = (CLIP_L, T5)
_MARKERS = ("img_in.weight", "double_blocks.0.img_mod.lin.weight", "double_blocks.0.img_attn.qkv.weight")
_FILL_CHANNELS = 384  # of a patch: latents, those of a picture, and the pixels of a mask
_CONTROL_CHANNELS = 128
_SAYING = ("modelspec.architecture", "modelspec.title")


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """guidance: what the network is told when nobody says otherwise, as its authors do; None if it is told nothing."""

    guidance: float | None
    steps: int
    reason: str


_DEV = _Variant(guidance=GUIDANCE, steps=20, reason="FLUX.1 [dev]: it is told its guidance")
_SCHNELL = _Variant(guidance=None, steps=4, reason="FLUX.1 [schnell]: distilled to 4 steps")
_FILL = _Variant(
    guidance=FILL_GUIDANCE, steps=20, reason="FLUX.1 Fill: it paints into a picture, and is told a high guidance"
)
_KONTEXT = _Variant(
    guidance=2.5, steps=20, reason="FLUX.1 Kontext: it changes a picture as the prompt says, from nothing but noise"
)


def recognise(source: WeightSource) -> bool:
    """A transformer of double blocks that are modulated one by one (those of Chroma and FLUX.2 are not)."""
    prefix = transformer_prefix(source, *_MARKERS, "final_layer.linear.weight")
    return prefix is not None and f"{prefix}controlnet_blocks.0.weight" not in source.keys()


def describe(source: WeightSource) -> Description:
    config = flux_config_from(_transformer(source))
    picture = _picture_input(source, config)
    return Description(
        native_size=NATIVE_SIZE,
        defaults=_defaults(source, config),
        size_step=16,
        text_encoders=_ENCODERS,
        embedded=tuple(kind for kind in encoders_in(source) if kind in _ENCODERS),
        needed=_ENCODERS,
        latent_channels=_LATENT_CHANNELS,
        has_vae=has_autoencoder(source),
        has_shift=True,
        picture_use=picture.use if picture else PictureUse.NONE,
    )


def load(files: ModelFiles, machine: Machine) -> TransformerModel:
    """A model whose parts are built and bound when they are first used.

    Raises KeysDoNotMatch when a part lacks the names from which its configuration is read; UnsupportedCheckpoint for a
    network with other inputs, and when an encoder or the autoencoder is missing.
    """
    source = _transformer(files.checkpoint)
    config = flux_config_from(source)
    picture = _picture_input(files.checkpoint, config)
    if config.in_channels != config.out_channels and picture is None:
        kind = (
            "FLUX.1 Canny or Depth, which follows the lines or distances of a picture"
            if config.in_channels == _CONTROL_CHANNELS
            else f"a FLUX.1 whose patches have {config.in_channels} numbers"
        )
        raise UnsupportedCheckpoint(files.checkpoint.origin, f"it is {kind}. Choose FLUX.1 [dev], [schnell] or Fill.")
    texts = _Texts(files, machine, config)
    return TransformerModel(
        family="flux",
        part=network_part(
            "transformer",
            source,
            target_for(machine, machine.policy.transformer),
            lambda: Flux(config),
            once=layers_used_once(source.keys(), is_used_once),
        ),
        condition=partial(_Conditioned, machine=machine),
        latents=LatentSpace(
            autoencoder_of(files), machine, _SCALING, channels=_LATENT_CHANNELS, family_label="a FLUX.1 model"
        ),
        levels=partial(_levels, is_shifted=config.is_guided),
        prediction=FlowPrediction(),
        process=RectifiedFlow(),
        encode_prompt=texts.encode,
        text_parts=texts.parts,
        call=partial(
            _call, config=config, dtype=machine.policy.transformer, num_pictures=2 if picture is FLUX_KONTEXT else 1
        ),
        machine=machine,
        picture=picture,
    )


class _Texts:
    """The two text encoders: T5 for the context, CLIP-L for one vector."""

    def __init__(self, files: ModelFiles, machine: Machine, config: FluxConfig) -> None:
        self._guidance = _variant(files.checkpoint, config).guidance
        clip, t5 = text_encoder_of(CLIP_L, files), text_encoder_of(T5, files)
        self._clip = ClipReader(CLIP_L, clip, machine, lambda config: FLUX_CLIP_L)
        check_width(clip, clip.spec(TOKENS).shape[1], config.vector_dim)
        length = _DEV_TOKENS if config.is_guided else _SCHNELL_TOKENS
        self._t5 = T5Reader(t5, machine, length=length)
        check_width(t5, self._t5.width, config.context_dim)
        self.parts = (self._clip.part, self._t5.part)

    def encode(self, prompt: Prompt) -> Conditioning:
        told = self._guidance if prompt.distilled_guidance is None else prompt.distilled_guidance
        t5 = self._t5.encode(prompt)
        return Conditioning(
            context=t5.states,
            lost_tokens=t5.num_lost,
            vector=self._clip.encode(prompt).pooled,
            guidance=None if self._guidance is None else told,
        )


class _Conditioned:
    """A `ConditionedTransformer`."""

    def __init__(self, network: nn.Module, conditioning: Conditioning, *, machine: Machine) -> None:
        self._network = cast(Flux, network)
        self._conditioning = conditioning
        self._device, self._dtype = machine.device.torch_device, machine.policy.transformer
        self._tokens = self._network.embed_context(conditioning.context.to(self._device, self._dtype))
        self._rotations: dict[tuple[int, int, int], Tensor] = {}  # by height and width in patches, and pictures

    def modulation(self, timesteps: Tensor, groups: Tensor) -> Tensor:
        vector = self._conditioning.vector
        assert vector is not None  # `_Texts` always gives one
        told = self._conditioning.guidance
        return self._network.modulation(
            timesteps.to(self._device),
            vector.to(self._device, self._dtype)[groups.to(self._device)],
            None if told is None else torch.full_like(timesteps, told, device=self._device),
        )

    def predict(self, x: Tensor, modulation: Tensor) -> Tensor:
        config = self._network.config
        height, width = (side // 2 for side in x.shape[-2:])
        size = height, width, 4 * x.shape[1] // config.in_channels
        if size not in self._rotations:
            self._rotations[size] = token_rotations(config, self._tokens.shape[1], *size).to(self._device)
        tokens = self._tokens.repeat_interleave(x.shape[0] // self._tokens.shape[0], dim=0)
        return self._network(x.to(self._device, self._dtype), tokens, modulation, self._rotations[size])


def _call(evaluation: Evaluation, *, config: FluxConfig, dtype: torch.dtype, num_pictures: int) -> Call:
    def evaluate(network: nn.Module, device: torch.device) -> object:
        flux = cast(Flux, network)
        images = evaluation.images
        height, width = evaluation.height // 16, evaluation.width // 16
        context = torch.empty(images, evaluation.tokens, config.context_dim, dtype=dtype, device=device)
        told = torch.empty(1, device=device)
        vector = torch.empty(1, config.vector_dim, dtype=dtype, device=device)
        modulation = flux.modulation(told, vector, told if config.is_guided else None).expand(images, -1, -1)
        channels = num_pictures * config.in_channels // 4
        x = torch.empty(images, channels, 2 * height, 2 * width, dtype=dtype, device=device)
        rotation = token_rotations(config, evaluation.tokens, height, width, num_pictures).to(device)
        return flux(x, flux.embed_context(context), modulation, rotation)

    return evaluate


def _transformer(source: WeightSource) -> WeightSource:
    return transformer_in(source, transformer_prefix(source, "img_in.weight") or "")


def _levels(width: int, height: int, shift: float | None, *, is_shifted: bool) -> FlowLevels:
    if shift is None:
        shift = flux_shift(width, height) if is_shifted else 1.0
    return FlowLevels(shift=shift, num_levels=_NUM_LEVELS)


def _picture_input(source: WeightSource, config: FluxConfig) -> PictureInput | None:
    if config.in_channels == _FILL_CHANNELS:
        return FLUX_FILL
    is_kontext = config.is_guided and config.in_channels == config.out_channels and says_kontext(source)
    return FLUX_KONTEXT if is_kontext else None


def says_kontext(source: WeightSource) -> bool:
    """Whether a file's metadata call it Kontext, which has the names and shapes of [dev]."""
    return any("kontext" in source.metadata.get(key, "").lower() for key in _SAYING)


def _variant(source: WeightSource, config: FluxConfig) -> _Variant:
    if not config.is_guided:
        return _SCHNELL
    picture = _picture_input(source, config)
    return _FILL if picture is FLUX_FILL else _KONTEXT if picture is FLUX_KONTEXT else _DEV


def _defaults(source: WeightSource, config: FluxConfig) -> Defaults:
    variant = _variant(source, config)
    plain = Defaults(
        sampler="euler",
        schedule="simple",
        steps=variant.steps,
        guidance_scale=1.0,
        distilled_guidance=variant.guidance,
        reason=variant.reason,
    )
    return with_few_steps(plain, source) if config.is_guided else plain


FLUX = Family(
    name="flux",
    label="FLUX.1",
    aliases=("flux1", "flux-dev", "flux-schnell"),
    recognise=recognise,
    describe=describe,
    load=load,
)
