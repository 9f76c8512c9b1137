"""Stable Diffusion 3 medium, 3.5 medium and 3.5 large (turbo), and files of their transformer alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.diffusion.flow_levels import FlowLevels
from backend.diffusion.guidance import Conditioning
from backend.diffusion.prediction import FlowPrediction
from backend.diffusion.process import RectifiedFlow
from backend.errors import KeysDoNotMatch, RequestError, UnsupportedCheckpoint
from backend.families.autoencoder_files import autoencoder_of, has_autoencoder
from backend.families.clip_reader import ClipReader
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
from backend.families.transformer_shapes import mmdit_config_from, side_of_table
from backend.memory.dry_run import Call
from backend.nn.mmdit import MMDiT, MMDiTConfig, cropped_positions, is_used_once
from backend.text.chunks import CHUNK_LENGTH
from backend.text.clip_encoder import SD3_CLIP_G, SD3_CLIP_L
from backend.text.encoder_layouts import CLIP_G, CLIP_L, T5, TOKENS, chosen_encoder, encoders_in
from backend.weights.source import WeightSource

NATIVE_SIZE = 1024
SHIFT = 3.0

_SCALING = LatentScaling(factor=(1.5305,), shift=(0.0609,))
_LATENT_CHANNELS = 16
_T5_TOKENS = 256  # with padding
_ENCODERS = (CLIP_L, CLIP_G, T5)
_POSITIONS = "pos_embed"
_MARKERS = ("joint_blocks.0.x_block.attn.qkv.weight", "x_embedder.proj.weight", "final_layer.linear.weight")


def recognise(source: WeightSource) -> bool:
    return transformer_prefix(source, *_MARKERS) is not None


def describe(source: WeightSource) -> Description:
    return Description(
        native_size=NATIVE_SIZE,
        defaults=_defaults(source, mmdit_config_from(_Files(source).transformer)),
        size_step=16,
        text_encoders=_ENCODERS,
        embedded=tuple(kind for kind in encoders_in(source) if kind in _ENCODERS),
        latent_channels=_LATENT_CHANNELS,
        has_vae=has_autoencoder(source),
        has_shift=True,
    )


def load(files: ModelFiles, machine: Machine) -> TransformerModel:
    """A model whose parts are built and bound when they are first used.

    Raises KeysDoNotMatch when a part lacks the names from which its configuration is read; UnsupportedCheckpoint when
    there is no text encoder at all, or no autoencoder.
    """
    checkpoint = _Files(files.checkpoint)
    config = mmdit_config_from(checkpoint.transformer)
    texts = _Texts(files, machine, config)
    return TransformerModel(
        family="sd3",
        part=network_part(
            "transformer",
            checkpoint.transformer,
            target_for(machine, machine.policy.transformer),
            lambda: MMDiT(config),
            once=layers_used_once(checkpoint.transformer.keys(), is_used_once),
        ),
        condition=partial(_Conditioned, files=checkpoint, machine=machine),
        latents=LatentSpace(
            autoencoder_of(files),
            machine,
            _SCALING,
            channels=_LATENT_CHANNELS,
            family_label="an SD 3 model",
        ),
        levels=_levels,
        prediction=FlowPrediction(),
        process=RectifiedFlow(),
        encode_prompt=texts.encode,
        text_parts=texts.parts,
        call=partial(_call, config=config, dtype=machine.policy.transformer),
        machine=machine,
    )


class _Files:
    """The transformer of a checkpoint, and its table of positions, of which the last crop is kept.

    Raises KeysDoNotMatch for a table of no square.
    """

    def __init__(self, checkpoint: WeightSource) -> None:
        self._checkpoint = checkpoint
        prefix = transformer_prefix(checkpoint, *_MARKERS) or ""
        self._table = prefix + _POSITIONS
        self.transformer = transformer_in(checkpoint, prefix, without=(_POSITIONS,))
        if self._table not in checkpoint.keys():
            raise KeysDoNotMatch(checkpoint.origin, "transformer", missing=[_POSITIONS])
        shape = checkpoint.spec(self._table).shape
        self.table_size = side_of_table(shape)
        self._last_positions: tuple[int, int, Tensor] | None = None
        if not self.table_size:
            raise KeysDoNotMatch(checkpoint.origin, "transformer", misshaped=[f"{_POSITIONS} {list(shape)}"])

    def positions(self, height: int, width: int) -> Tensor:
        """[1, height * width, D] for a picture of so many patches. Raises RequestError for one that is too large."""
        if max(height, width) > self.table_size:
            raise RequestError(
                "width" if width > self.table_size else "height",
                f"{16 * width} x {16 * height} pixels are more than this model has positions for; "
                f"the longest side is {16 * self.table_size}",
            )
        last = self._last_positions
        if last is None or last[:2] != (height, width):
            # The whole of it, for a moment: only a copy of a whole tensor notices a file that was cut off meanwhile.
            spec = self._checkpoint.spec(self._table)
            table = torch.empty(spec.shape, dtype=spec.dtype)
            self._checkpoint.read_into(self._table, table)
            last = self._last_positions = (height, width, cropped_positions(table, height, width).clone())
        return last[2]


class _Texts:
    """Up to three text encoders. A missing one says zeros, as in training, where each was left out at times.

    Their tokens follow each other: those of CLIP-L and CLIP-G side by side and filled up with zeros to the width of
    T5's, and then those of T5.
    """

    def __init__(self, files: ModelFiles, machine: Machine, config: MMDiTConfig) -> None:
        found = {
            kind: chosen_encoder(kind, checkpoint=files.checkpoint, separate=files.text_encoders) for kind in _ENCODERS
        }
        if not any(found.values()):
            raise UnsupportedCheckpoint(
                files.checkpoint.origin,
                "it holds no text encoder, without which it cannot read prompts. Put CLIP-L, CLIP-G or T5-XXL into "
                "models/text_encoders and choose at least one, or use a checkpoint that holds them.",
            )
        self._config = config
        clip_l, clip_g = found[CLIP_L], found[CLIP_G]
        self._clips = (
            None if clip_l is None else ClipReader(CLIP_L, clip_l, machine, lambda config: SD3_CLIP_L),
            None if clip_g is None else ClipReader(CLIP_G, clip_g, machine, lambda config: SD3_CLIP_G),
        )
        if clip_l is not None and clip_g is not None:
            check_width(clip_g, clip_g.spec(TOKENS).shape[1], config.vector_dim - clip_l.spec(TOKENS).shape[1])
        t5 = found[T5]
        self._t5 = None if t5 is None else T5Reader(t5, machine, length=_T5_TOKENS)
        if t5 is not None and self._t5 is not None:
            check_width(t5, self._t5.width, config.context_dim)
        self.parts = [reader.part for reader in (*self._clips, self._t5) if reader is not None]

    def encode(self, prompt: Prompt) -> Conditioning:
        clip, pooled = self._clip(prompt)
        if self._t5 is None:
            t5 = torch.zeros(1, _T5_TOKENS, self._config.context_dim, device=clip.device)
            return Conditioning(context=torch.cat([clip, t5], dim=1), vector=pooled)
        t5 = self._t5.encode(prompt)
        context = torch.cat([clip.to(t5.states.device), t5.states], dim=1)
        return Conditioning(context=context, vector=pooled, lost_tokens=t5.num_lost)

    def _clip(self, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """States [1, 77 * chunks, context_dim] and the vector [1, vector_dim]."""
        encodings = [None if reader is None else reader.encode(prompt) for reader in self._clips]
        states = self._side_by_side([encoding and encoding.states for encoding in encodings])
        pooled = self._side_by_side([encoding and encoding.pooled for encoding in encodings])
        if states is None or pooled is None:
            return torch.zeros(1, CHUNK_LENGTH, self._config.context_dim), torch.zeros(1, self._config.vector_dim)
        return F.pad(states, (0, self._config.context_dim - states.shape[-1])), pooled

    def _side_by_side(self, parts: Sequence[Tensor | None]) -> Tensor | None:
        """CLIP-L's numbers and CLIP-G's, with zeros for those of a missing one; together as many as the vector has."""
        present = [part for part in parts if part is not None]
        if not present:
            return None
        missing = self._config.vector_dim - sum(part.shape[-1] for part in present)
        gap = present[0].new_zeros(*present[0].shape[:-1], missing)
        return torch.cat([gap if part is None else part for part in parts], dim=-1)


class _Conditioned:
    """A `ConditionedTransformer`."""

    def __init__(self, network: nn.Module, conditioning: Conditioning, *, files: _Files, machine: Machine) -> None:
        self._network = cast(MMDiT, network)
        self._files = files
        self._device, self._dtype = machine.device.torch_device, machine.policy.transformer
        vector = conditioning.vector
        assert vector is not None  # `_Texts` always gives one
        self._vector = vector.to(self._device, self._dtype)
        self._tokens = self._network.embed_context(conditioning.context.to(self._device, self._dtype))
        self._positions: dict[tuple[int, int], Tensor] = {}

    def modulation(self, timesteps: Tensor, groups: Tensor) -> Tensor:
        return self._network.modulation(timesteps.to(self._device), self._vector[groups.to(self._device)])

    def predict(self, x: Tensor, modulation: Tensor) -> Tensor:
        height, width = (side // self._network.config.patch for side in x.shape[-2:])
        if (height, width) not in self._positions:
            self._positions[height, width] = self._files.positions(height, width).to(self._device, self._dtype)
        tokens = self._tokens.repeat_interleave(x.shape[0] // self._tokens.shape[0], dim=0)
        return self._network(x.to(self._device, self._dtype), tokens, modulation, self._positions[height, width])


def _call(evaluation: Evaluation, *, config: MMDiTConfig, dtype: torch.dtype) -> Call:
    def evaluate(network: nn.Module, device: torch.device) -> object:
        mmdit = cast(MMDiT, network)
        images, patch = evaluation.images, config.patch
        height, width = evaluation.height // 8, evaluation.width // 8
        context = torch.empty(images, evaluation.tokens, config.context_dim, dtype=dtype, device=device)
        vector = torch.empty(1, config.vector_dim, dtype=dtype, device=device)
        modulation = mmdit.modulation(torch.empty(1, device=device), vector).expand(images, -1, -1)
        x = torch.empty(images, config.in_channels, height, width, dtype=dtype, device=device)
        positions = torch.empty(1, height * width // patch**2, config.width, dtype=dtype, device=device)
        return mmdit(x, mmdit.embed_context(context), modulation, positions)

    return evaluate


def _levels(width: int, height: int, shift: float | None) -> FlowLevels:
    return FlowLevels(shift=SHIFT if shift is None else shift)


def _defaults(source: WeightSource, config: MMDiTConfig) -> Defaults:
    is_first = not config.has_query_norm
    plain = Defaults(
        sampler="euler",
        schedule="normal",
        steps=28,
        guidance_scale=7.0 if is_first else 4.5,
        reason=f"Stable Diffusion {'3' if is_first else '3.5'}: as its authors use it",
    )
    return with_few_steps(plain, source)


SD3 = Family(
    name="sd3",
    label="Stable Diffusion 3",
    aliases=("sd35", "stable-diffusion-3", "stable-diffusion-3.5"),
    recognise=recognise,
    describe=describe,
    load=load,
)
