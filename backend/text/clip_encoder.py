"""CLIP's text encoders: chunks of tokens to the states that networks attend to, and to a vector for the whole text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.nn.clip_text import ClipText, ClipTextConfig
from backend.text.chunks import Chunk, CompiledPrompt
from backend.text.clip_tokenizer import END_TEXT
from backend.text.emphasis import EmphasisMode, is_weighted
from backend.text.encoder_layouts import TOKENS
from backend.weights.source import Computed, TensorSpec, WeightSource

_OPEN_CLIP_PADDING = 0  # OpenCLIP pads with the token "!", OpenAI with the end mark


@dataclass(frozen=True, kw_only=True)
class ClipReading:
    """What a family reads from a CLIP text encoder.

    earliest_skip: the layer, counted from the last (1), that is read unless clip skip asks for one before it.
    final_norm: whether its states pass the norm behind the last layer. padding: the token behind the end mark.
    is_pooled: whether the vector of the text is read. is_projected: whether that is projected where weights for it are.
    left_out: layers at the end that the file does not hold.
    """

    earliest_skip: int = 1
    left_out: int = 0
    final_norm: bool = True
    padding: int = END_TEXT
    is_pooled: bool = False
    is_projected: bool = True

    def skip(self, clip_skip: int) -> int:
        """The layer to read, counted from the last one of the network that is there."""
        return max(1, max(clip_skip, self.earliest_skip) - self.left_out)


# Clip skip 1 and 2 both mean the layer before the last where that one was trained with: so A1111 and Forge count, whose
# pictures say "Clip skip: 1" or "2" for it. (For diffusers' pipelines, `clip_skip` counts on from that layer.)
SD1_CLIP_L = ClipReading()
SDXL_CLIP_L = ClipReading(earliest_skip=2, final_norm=False)
SDXL_CLIP_G = ClipReading(earliest_skip=2, final_norm=False, padding=_OPEN_CLIP_PADDING, is_pooled=True)
SD3_CLIP_L = ClipReading(earliest_skip=2, final_norm=False, is_pooled=True)
SD3_CLIP_G = SDXL_CLIP_G
FLUX_CLIP_L = ClipReading(is_pooled=True, is_projected=False)
_CLIP_H_LAYERS = 24


def sd2_clip_h(config: ClipTextConfig) -> ClipReading:
    """SD 2.x never reads the last of CLIP-H's 24 layers, and diffusers' files of its text encoder do not hold it."""
    left_out = 1 if config.layers == _CLIP_H_LAYERS - 1 else 0
    return ClipReading(earliest_skip=2, padding=_OPEN_CLIP_PADDING, left_out=left_out)


@dataclass(frozen=True, kw_only=True)
class ClipEncoding:
    """states: [1, 77 * chunks, D] float32. pooled: [1, P] float32 of the first chunk, or None."""

    states: Tensor
    pooled: Tensor | None


@torch.no_grad()
def encode_clip(
    encoder: ClipText,
    prompt: CompiledPrompt,
    reading: ClipReading,
    *,
    clip_skip: int,
    emphasis: EmphasisMode,
    device: torch.device,
    dtype: torch.dtype,
    vectors: Mapping[str, Tensor] | None = None,
) -> ClipEncoding:
    """Encode the chunks one at a time, so that a prompt's states do not depend on its other chunks.

    clip_skip: 1 for the last layer's states, 2 for those of the layer before, and so on. The pooled vector is always
    that of the last layer, and emphasis does not act on it. device, dtype: where and in which type is computed.
    vectors: [N, D] of the textual inversions that the prompt mentions, by name.
    """
    states: list[Tensor] = []
    pooled: Tensor | None = None
    for index, chunk in enumerate(prompt.chunks):
        tokens, end = _padded(chunk, reading.padding)
        output = encoder(
            torch.tensor([tokens], device=device),
            skip=reading.skip(clip_skip),
            final_norm=reading.final_norm,
            pooled_at=torch.tensor([end], device=device) if reading.is_pooled and index == 0 else None,
            project=reading.is_projected,
            dtype=dtype,
            placed=[(position, (vectors or {})[name]) for position, name in chunk.mentions],
        )
        states.append(_emphasised(output.states.float(), chunk, emphasis))
        pooled = output.pooled.float() if output.pooled is not None else pooled
    return ClipEncoding(states=torch.cat(states, dim=1), pooled=pooled)


def with_all_tokens(source: WeightSource, rows: Tensor) -> WeightSource:
    """A text encoder whose embedding has every token, from one that holds those of `rows` (ids [N]) only.

    The embeddings of the other tokens are zero. A small model saves most of its size that way.
    """
    spec = source.spec(TOKENS)
    full = TensorSpec((END_TEXT + 1, spec.shape[1]), spec.dtype)

    def expand() -> Tensor:
        embedding = torch.zeros(full.shape, dtype=full.dtype)
        embedding[rows.long()] = source.read(TOKENS)
        return embedding

    return Computed(source, {TOKENS: (full, expand, f"all tokens of {source.identity(TOKENS)}")})


def _padded(chunk: Chunk, padding: int) -> tuple[list[int], int]:
    """The tokens of a chunk, with `padding` behind its first end mark, and the position of that mark.

    An end mark that the prompt spells out is the first, as in A1111; where it is the padding, text may follow it.
    """
    end = chunk.tokens.index(END_TEXT)
    if padding == END_TEXT:
        return [*chunk.tokens], end
    return [*chunk.tokens[: end + 1], *[padding] * (len(chunk.tokens) - end - 1)], end


def _emphasised(states: Tensor, chunk: Chunk, emphasis: EmphasisMode) -> Tensor:
    weights = torch.tensor(chunk.weights, device=states.device)
    return emphasis.apply(states, weights) if is_weighted(weights) else states
