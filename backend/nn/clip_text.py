"""The text network of CLIP (Radford et al. 2021), as OpenAI and OpenCLIP trained it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.layers import Embedding, LayerNorm, Linear
from backend.nn.placed_vectors import with_vectors

# Shapes: B batch, N tokens, D width, H heads, P width of the space that texts share with pictures.
# Parameters are named as in transformers' CLIPTextModelWithProjection, without its prefix "text_model.".


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig:
    """Numbers of CLIP-L. quick_gelu: OpenAI's activation; OpenCLIP's networks have the exact GELU.

    projection_width: P, or None where the weights hold no projection.
    """

    vocabulary: int = 49408
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    positions: int = 77
    quick_gelu: bool = True
    projection_width: int | None = None


@dataclass(frozen=True, kw_only=True)
class ClipTextOutput:
    """states: [B, N, D] of the layer that was asked for. pooled: [B, P], or [B, D] when it is not projected."""

    states: Tensor
    pooled: Tensor | None


class ClipText(nn.Module):
    """Tokens -> states of one layer, each of which knows the tokens up to its own."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.final_layer_norm = LayerNorm(config.width)
        self.text_projection = (
            None if config.projection_width is None else Linear(config.width, config.projection_width, bias=False)
        )

    def forward(
        self,
        tokens: Tensor,
        *,
        skip: int = 1,
        final_norm: bool = True,
        pooled_at: Tensor | None = None,
        project: bool = True,
        dtype: torch.dtype = torch.float32,
        placed: Sequence[tuple[int, Tensor]] = (),
    ) -> ClipTextOutput:
        """tokens: ids [B, N]. skip: 1 for the states of the last layer, 2 for those of the one before, and so on.

        final_norm: whether `states` pass the norm that follows the last layer; what is pooled always does.
        pooled_at: the position [B] of the token whose last state stands for the text; None for no pooled output, and
        then the layers behind the wanted one are not run. project: into the shared space, where the weights can.
        dtype: what is computed in. placed: vectors [M, D] that stand from a position on in place of its tokens' own.
        """
        wanted = max(1, len(self.encoder.layers) + 1 - skip)
        last = states = self.embeddings(tokens, dtype, placed)
        for number, layer in enumerate(self.encoder.layers, start=1):
            if number > wanted and pooled_at is None:
                break
            last = layer(last)
            if number == wanted:
                states = last
        pooled = None
        if pooled_at is not None:
            pooled = self.final_layer_norm(last)[torch.arange(len(tokens), device=tokens.device), pooled_at]
            if project and self.text_projection is not None:
                pooled = self.text_projection(pooled)
        return ClipTextOutput(states=self.final_layer_norm(states) if final_norm else states, pooled=pooled)


class _Embeddings(nn.Module):
    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.token_embedding = Embedding(config.vocabulary, config.width)
        self.position_embedding = Embedding(config.positions, config.width)

    def forward(self, tokens: Tensor, dtype: torch.dtype, placed: Sequence[tuple[int, Tensor]]) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return with_vectors(self.token_embedding(tokens, dtype), placed) + self.position_embedding(positions, dtype)


class _Encoder(nn.Module):
    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.layers)])


class _Layer(nn.Module):
    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(config.width)
        self.self_attn = _CausalAttention(config.width, config.heads)
        self.layer_norm2 = LayerNorm(config.width)
        self.mlp = _Mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _CausalAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split_heads(projection(x)) for projection in (self.q_proj, self.k_proj, self.v_proj))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # [B, H, N, D / H]
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # [B, N, D] -> [B, H, N, D / H]


class _Mlp(nn.Module):
    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.activation: Callable[[Tensor], Tensor] = quick_gelu if config.quick_gelu else F.gelu
        self.fc1 = Linear(config.width, config.mlp_width)
        self.fc2 = Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


def quick_gelu(x: Tensor) -> Tensor:
    """GELU with a sigmoid in place of the error function (Hendrycks and Gimpel 2016)."""
    return x * torch.sigmoid(1.702 * x)
