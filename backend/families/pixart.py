"""PixArt-alpha and PixArt-Sigma, as published and as diffusers names their weights: files of the transformer alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from backend.diffusion.guidance import Conditioning
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.prediction import EpsPrediction
from backend.diffusion.process import VarianceExploding
from backend.errors import UnsupportedCheckpoint
from backend.families.autoencoder_files import autoencoder_of, has_autoencoder
from backend.families.clip_reader import text_encoder_of
from backend.families.family import Defaults, Description, Evaluation, Family, Machine, ModelFiles, Prompt
from backend.families.latent_space import LatentScaling, LatentSpace
from backend.families.parts import network_part, target_for
from backend.families.t5_reader import T5Reader
from backend.families.transformer_files import (
    check_width,
    layers_used_once,
    transformer_in,
    transformer_prefix,
    with_few_steps,
)
from backend.families.transformer_model import TransformerModel
from backend.families.transformer_shapes import pixart_config_from, side_of_table
from backend.memory.dry_run import Call
from backend.nn.pixart import PixArt, PixArtConfig, grid_positions, is_used_once
from backend.text.encoder_layouts import T5, encoders_in
from backend.weights.source import Computed, Renamed, TensorSpec, WeightSource

_LATENT_CHANNELS = 4
_ALPHA_FACTOR, _SIGMA_FACTOR = 0.18215, 0.13025  # of the autoencoders of SD 1.x and SDXL
_ALPHA_TOKENS, _SIGMA_TOKENS = 120, 300  # of a prompt, with padding, as they were trained
_ENCODERS = (T5,)
_POSITIONS, _EMPTY_CAPTION = "pos_embed", "y_embedder.y_embedding"
_SPAN = 32.0  # what the positions reach to along each side
_ALPHA_256_SPAN = 16.0
_PATCH_PIXELS = 16

_PUBLISHED = ("t_block.1.weight", "blocks.0.cross_attn.kv_linear.weight", "x_embedder.proj.weight")
_DIFFUSERS = ("adaln_single.linear.weight", "transformer_blocks.0.attn2.to_k.weight", "pos_embed.proj.weight")
_COMPRESSION = "attn.sr.weight"


def recognise(source: WeightSource) -> bool:
    return transformer_prefix(source, *_PUBLISHED) is not None or transformer_prefix(source, *_DIFFUSERS) is not None


def describe(source: WeightSource) -> Description:
    facts = _Facts(source)
    name = "PixArt-Sigma" if facts.is_sigma else "PixArt-alpha"
    plain = Defaults(schedule="normal", steps=20, guidance_scale=4.5, reason=f"{name}: as its authors use it")
    return Description(
        native_size=facts.native_size,
        defaults=with_few_steps(plain, source),
        size_step=16,
        text_encoders=_ENCODERS,
        embedded=tuple(kind for kind in encoders_in(source) if kind in _ENCODERS),
        needed=_ENCODERS,
        latent_channels=_LATENT_CHANNELS,
        has_vae=has_autoencoder(source),
    )


def load(files: ModelFiles, machine: Machine) -> TransformerModel:
    """A model whose parts are built and bound when they are first used.

    Raises KeysDoNotMatch when a part lacks the names from which its configuration is read; UnsupportedCheckpoint for a
    network that compresses keys, and when the encoder or the autoencoder is missing.
    """
    facts = _Facts(files.checkpoint)
    config = pixart_config_from(facts.transformer)
    if any(key.endswith(_COMPRESSION) for key in facts.transformer.keys()):
        raise UnsupportedCheckpoint(
            files.checkpoint.origin,
            "it is a PixArt-Sigma that compresses keys and values, which this version does not run; choose one for "
            "512 or 1024 pixels without it.",
        )
    text = _Text(files, machine, config, facts)
    return TransformerModel(
        family="pixart",
        part=network_part(
            "transformer",
            facts.transformer,
            target_for(machine, machine.policy.transformer),
            lambda: PixArt(config),
            once=layers_used_once(facts.transformer.keys(), is_used_once),
        ),
        condition=partial(_Conditioned, span=facts.span, machine=machine),
        latents=LatentSpace(
            autoencoder_of(files),
            machine,
            LatentScaling(factor=(_SIGMA_FACTOR if facts.is_sigma else _ALPHA_FACTOR,)),
            channels=_LATENT_CHANNELS,
            family_label="a PixArt model",
        ),
        levels=lambda width, height, shift: NoiseLevels.linear(),
        prediction=EpsPrediction(),
        process=VarianceExploding(),
        encode_prompt=text.encode,
        text_parts=(text.part,),
        call=partial(_call, config=config, dtype=machine.policy.transformer),
        machine=machine,
    )


class _Facts:
    """What names and shapes tell of a file beside the configuration of its transformer."""

    def __init__(self, source: WeightSource) -> None:
        prefix = transformer_prefix(source, *_PUBLISHED)
        if prefix is not None:
            named = transformer_in(source, prefix)
        else:
            named = _with_published_names(transformer_in(source, transformer_prefix(source, *_DIFFUSERS) or ""))
        keys = frozenset(named.keys())
        table = named.spec(_POSITIONS).shape if _POSITIONS in keys else ()
        caption = named.spec(_EMPTY_CAPTION).shape if _EMPTY_CAPTION in keys else ()
        is_told_sizes = "csize_embedder.mlp.0.weight" in keys
        self.is_sigma = caption[:1] == (_SIGMA_TOKENS,) or not (caption or is_told_sizes)
        side = side_of_table(table)
        self.native_size = side * _PATCH_PIXELS or 1024
        self.span = _ALPHA_256_SPAN if side == 16 and not self.is_sigma else _SPAN
        self.transformer: WeightSource = Renamed(
            named, lambda key: None if key in (_POSITIONS, _EMPTY_CAPTION) else key
        )


class _Text:
    """T5 alone. A text is read in small letters, as in training; what the picture's size is stands in the vector."""

    def __init__(self, files: ModelFiles, machine: Machine, config: PixArtConfig, facts: _Facts) -> None:
        source = text_encoder_of(T5, files)
        length = _SIGMA_TOKENS if facts.is_sigma else _ALPHA_TOKENS
        self._t5 = T5Reader(source, machine, length=length, ignores_padding=True, is_lower_case=True)
        check_width(source, self._t5.width, config.context_dim)
        self.part = self._t5.part

    def encode(self, prompt: Prompt) -> Conditioning:
        encoding = self._t5.encode(prompt)
        sizes = (float(prompt.height), float(prompt.width), prompt.height / prompt.width)
        return Conditioning(
            context=encoding.states,
            mask=encoding.mask,
            vector=torch.tensor([sizes], device=encoding.states.device),
            lost_tokens=encoding.num_lost,
        )


class _Conditioned:
    """A `ConditionedTransformer`."""

    def __init__(self, network: nn.Module, conditioning: Conditioning, *, span: float, machine: Machine) -> None:
        self._network = cast(PixArt, network)
        self._span = span
        self._device, self._dtype = machine.device.torch_device, machine.policy.transformer
        sizes, mask = conditioning.vector, conditioning.mask
        assert sizes is not None  # `_Text` always gives both
        assert mask is not None
        self._sizes = sizes.to(self._device)
        tokens = self._network.embed_context(conditioning.context.to(self._device, self._dtype))
        self._tokens = [states[counts] for states, counts in zip(tokens, mask.to(self._device), strict=True)]
        self._positions: dict[tuple[int, int], Tensor] = {}

    def modulation(self, timesteps: Tensor, groups: Tensor) -> Tensor:
        told = self._sizes[groups.to(self._device)]
        return self._network.modulation(timesteps.to(self._device), told, self._dtype)

    def predict(self, x: Tensor, modulation: Tensor) -> Tensor:
        config = self._network.config
        height, width = (side // config.patch for side in x.shape[-2:])
        if (height, width) not in self._positions:
            positions = grid_positions(config.width, height, width, self._span)
            self._positions[height, width] = positions.to(self._device, self._dtype)
        x = x.to(self._device, self._dtype)
        return self._network(x, self._tokens, modulation, self._positions[height, width])


def _call(evaluation: Evaluation, *, config: PixArtConfig, dtype: torch.dtype) -> Call:
    def evaluate(network: nn.Module, device: torch.device) -> object:
        pixart = cast(PixArt, network)
        images, patch = evaluation.images, config.patch
        height, width = evaluation.height // 8, evaluation.width // 8
        context = torch.empty(images, evaluation.tokens, config.context_dim, dtype=dtype, device=device)
        told = torch.empty(1, device=device), torch.empty(1, 3, device=device)
        modulation = pixart.modulation(*told, dtype).expand(images, -1, -1)
        x = torch.empty(images, config.in_channels, height, width, dtype=dtype, device=device)
        positions = torch.empty(1, height * width // patch**2, config.width, dtype=dtype, device=device)
        return pixart(x, list(pixart.embed_context(context)), modulation, positions)

    return evaluate


_TOP_NAMES = {
    "pos_embed.proj.": "x_embedder.proj.",
    "adaln_single.emb.timestep_embedder.linear_1.": "t_embedder.mlp.0.",
    "adaln_single.emb.timestep_embedder.linear_2.": "t_embedder.mlp.2.",
    "adaln_single.emb.resolution_embedder.linear_1.": "csize_embedder.mlp.0.",
    "adaln_single.emb.resolution_embedder.linear_2.": "csize_embedder.mlp.2.",
    "adaln_single.emb.aspect_ratio_embedder.linear_1.": "ar_embedder.mlp.0.",
    "adaln_single.emb.aspect_ratio_embedder.linear_2.": "ar_embedder.mlp.2.",
    "adaln_single.linear.": "t_block.1.",
    "caption_projection.linear_1.": "y_embedder.y_proj.fc1.",
    "caption_projection.linear_2.": "y_embedder.y_proj.fc2.",
    "caption_projection.y_embedding": _EMPTY_CAPTION,
    "proj_out.": "final_layer.linear.",
    "scale_shift_table": "final_layer.scale_shift_table",
}
_BLOCK_NAMES = {
    "scale_shift_table": "scale_shift_table",
    "attn1.to_out.0.": "attn.proj.",
    "attn2.to_q.": "cross_attn.q_linear.",
    "attn2.to_out.0.": "cross_attn.proj.",
    "ff.net.0.proj.": "mlp.fc1.",
    "ff.net.2.": "mlp.fc2.",
}
_FUSED = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
}
_BLOCK = re.compile(r"(?:transformer_blocks\.(\d+)\.)(.+)")


def _with_published_names(source: WeightSource) -> WeightSource:
    """A transformer under diffusers' names under those of its authors, with the layers fused that they fused.

    A name that is not known stays, to be refused.
    """
    fused = {part + "." for parts in _FUSED.values() for part in parts}

    def rename(key: str) -> str | None:
        block = _BLOCK.fullmatch(key)
        if block is None:
            return _renamed(key, _TOP_NAMES)
        return None if block[2].startswith(tuple(fused)) else f"blocks.{block[1]}.{_renamed(block[2], _BLOCK_NAMES)}"

    return Computed(Renamed(source, rename), _fused_layers(source))


def _renamed(key: str, names: Mapping[str, str]) -> str:
    old = next((old for old in names if key.startswith(old)), "")
    return names[old] + key[len(old) :] if old else key


def _fused_layers(source: WeightSource) -> dict[str, tuple[TensorSpec, Callable[[], Tensor], str]]:
    keys = frozenset(source.keys())
    blocks = sorted({int(block[1]) for key in keys if (block := _BLOCK.fullmatch(key))})
    layers: dict[str, tuple[TensorSpec, Callable[[], Tensor], str]] = {}
    for index in blocks:
        for fused, parts in _FUSED.items():
            for kind in ("weight", "bias"):
                names = [f"transformer_blocks.{index}.{part}.{kind}" for part in parts]
                if keys.issuperset(names):
                    layers[f"blocks.{index}.{fused}.{kind}"] = _joined(source, names)
    return layers


def _joined(source: WeightSource, names: Sequence[str]) -> tuple[TensorSpec, Callable[[], Tensor], str]:
    specs = [source.spec(name) for name in names]
    shape = (sum(spec.shape[0] for spec in specs), *specs[0].shape[1:])
    identity = " and ".join(source.identity(name) for name in names)
    return TensorSpec(shape, specs[0].dtype), lambda: _read_joined(source, names, shape, specs[0].dtype), identity


def _read_joined(source: WeightSource, names: Sequence[str], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    out = torch.empty(*shape, dtype=dtype)
    start = 0
    for name in names:
        rows = source.spec(name).shape[0]
        source.read_into(name, out[start : start + rows])
        start += rows
    return out


PIXART = Family(
    name="pixart",
    label="PixArt",
    aliases=("pixart-alpha", "pixart-sigma"),
    recognise=recognise,
    describe=describe,
    load=load,
)
