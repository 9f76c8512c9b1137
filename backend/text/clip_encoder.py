"""CLIP's text encoder: chunks of tokens to the states that a U-Net attends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from backend.errors import KeysDoNotMatch
from backend.text.chunks import CHUNK_LENGTH, Chunk, CompiledPrompt
from backend.text.emphasis import EmphasisMode, is_weighted
from backend.weights.source import Computed, Renamed, TensorSpec, WeightSource

if TYPE_CHECKING:
    from transformers import CLIPTextModel

# Names of the parts in transformers 5, under which weights are bound, and those of older checkpoints.
_PREFIXES = ("transformer.text_model.", "text_model.", "transformer.", "")
_TOKENS = "embeddings.token_embedding.weight"


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """What the names and shapes of a checkpoint say about its CLIP text encoder."""

    vocabulary: int = 49408
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    positions: int = CHUNK_LENGTH


def text_encoder_source(source: WeightSource) -> WeightSource:
    """The text encoder in a source whose `cond_stage_model.` prefix is taken off, under the names of its network.

    Raises KeysDoNotMatch when there is none.
    """
    keys = frozenset(source.keys())
    prefix = next((prefix for prefix in _PREFIXES if prefix + _TOKENS in keys), None)
    if prefix is None:
        raise KeysDoNotMatch(source.origin, "text encoder", missing=[f"cond_stage_model.{_PREFIXES[0]}{_TOKENS}"])

    def rename(key: str) -> str | None:
        if not key.startswith(prefix) or key.endswith("position_ids"):  # position ids are 0, 1, 2 ... in every file
            return None
        return key[len(prefix) :]

    return Renamed(source, rename)


def text_encoder_config_from(source: WeightSource, *, heads: int | None = None) -> TextEncoderConfig:
    """The configuration of a text encoder under the names of its network.

    heads: CLIP has one for every 64 channels; narrow encoders say theirs in the metadata of their file.
    Raises KeysDoNotMatch.
    """
    keys = frozenset(source.keys())
    needed = (_TOKENS, "embeddings.position_embedding.weight", "encoder.layers.0.mlp.fc1.weight")
    if missing := [key for key in needed if key not in keys]:
        raise KeysDoNotMatch(source.origin, "text encoder", missing=missing)
    (vocabulary, width), (positions, _), (mlp_width, _) = (source.spec(key).shape for key in needed)
    layers = 0
    while f"encoder.layers.{layers}.mlp.fc1.weight" in keys:
        layers += 1
    return TextEncoderConfig(
        vocabulary=vocabulary,
        width=width,
        layers=layers,
        heads=heads or max(1, width // 64),
        mlp_width=mlp_width,
        positions=positions,
    )


def build_text_encoder(config: TextEncoderConfig) -> CLIPTextModel:
    """transformers' network without memory for its weights, which are to be bound."""
    from transformers import CLIPTextConfig, CLIPTextModel  # takes seconds to import, and only encoding needs it

    with torch.device("meta"):
        encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=config.vocabulary,
                hidden_size=config.width,
                intermediate_size=config.mlp_width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                max_position_embeddings=config.positions,
                hidden_act="quick_gelu",
            )
        )
    return encoder.eval()


def place_positions(encoder: nn.Module, device: torch.device) -> None:
    """Fill the buffer of position ids, which no checkpoint holds."""
    for module in encoder.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if name == "position_ids":
                positions = torch.arange(buffer.shape[-1], device=device)[None]
                module.register_buffer(name, positions, persistent=False)


@torch.no_grad()
def encode_prompt(encoder: CLIPTextModel, prompt: CompiledPrompt, *, clip_skip: int, emphasis: EmphasisMode) -> Tensor:
    """Context [1, 77 * chunks, D] in float32.

    clip_skip: 1 for the last layer's states, 2 for those of the layer before, and so on, each with the final norm.
    Chunks are encoded one at a time, so that a prompt's states do not depend on its other chunks.
    """
    return torch.cat([_encode_chunk(encoder, chunk, clip_skip, emphasis) for chunk in prompt.chunks], dim=1)


def _encode_chunk(encoder: CLIPTextModel, chunk: Chunk, clip_skip: int, emphasis: EmphasisMode) -> Tensor:
    device = next(encoder.parameters()).device
    output = encoder(input_ids=torch.tensor([chunk.tokens], device=device), output_hidden_states=clip_skip > 1)
    if clip_skip > 1:
        states = output.hidden_states
        assert states is not None
        last = encoder.final_layer_norm(states[-min(clip_skip, len(states) - 1)])
    else:
        last = output.last_hidden_state
    assert last is not None
    weights = torch.tensor(chunk.weights, device=device)
    return emphasis.apply(last.float(), weights) if is_weighted(weights) else last.float()


def with_all_tokens(source: WeightSource, rows: Tensor) -> WeightSource:
    """A text encoder whose embedding has every token, from one that holds those of `rows` (ids [N]) only.

    The embeddings of the other tokens are zero. A small model saves most of its size that way.
    """
    spec = source.spec(_TOKENS)
    full = TensorSpec((TextEncoderConfig().vocabulary, spec.shape[1]), spec.dtype)

    def expand() -> Tensor:
        embedding = torch.zeros(full.shape, dtype=full.dtype)
        embedding[rows.long()] = source.read(_TOKENS)
        return embedding

    return Computed(source, {_TOKENS: (full, expand, f"all tokens of {source.identity(_TOKENS)}")})
