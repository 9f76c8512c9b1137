"""The encoder of T5 version 1.1 (Raffel et al. 2020; Shazeer 2020 for its gated layers)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.layers import Embedding, Linear, RMSNorm
from backend.nn.placed_vectors import with_vectors

# Shapes: B batch, N tokens, D width, H heads, K width of a head (H * K need not be D).
# Parameters are named as in transformers' T5EncoderModel. No layer has a bias; scores are not scaled by 1 / sqrt(K).

_FURTHEST = 128  # tokens that are at least this far apart share one position bias
_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """Numbers of T5-XXL. buckets: of distances between tokens, half of them for each direction."""

    vocabulary: int = 32128
    width: int = 4096
    layers: int = 24
    heads: int = 64
    head_width: int = 64
    mlp_width: int = 10240
    buckets: int = 32


class T5Encoder(nn.Module):
    """Tokens -> states, in float32.

    What the layers add up is held in float32 throughout: T5's sums outgrow float16.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.shared = Embedding(config.vocabulary, config.width)
        self.encoder = _Stack(config)

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        placed: Sequence[tuple[int, Tensor]] = (),
    ) -> Tensor:
        """States [B, N, D] of ids [B, N]. mask: [B, N] bool, which tokens are attended to. dtype: of the layers.

        placed: vectors [M, D] that stand from a position on in place of its tokens' own.
        """
        return self.encoder(with_vectors(self.shared(tokens, torch.float32), placed), mask, dtype)


class _Stack(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.block = nn.ModuleList([_Block(config, has_position_bias=index == 0) for index in range(config.layers)])
        self.final_layer_norm = RMSNorm(config.width, _EPS)

    def forward(self, x: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
        bias: Tensor | None = None
        for block in self.block:
            x, bias = block(x, bias, mask, dtype)
        return self.final_layer_norm(x)


class _Block(nn.Module):
    """Attention and feed-forward. The first block computes the bias that all of them add to their scores."""

    def __init__(self, config: T5Config, *, has_position_bias: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_AttentionLayer(config, has_position_bias), _FeedForwardLayer(config)])

    def forward(
        self, x: Tensor, bias: Tensor | None, mask: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        attention, feed_forward = self.layer
        x, bias = attention(x, bias, mask, dtype)
        return feed_forward(x, dtype), bias


class _AttentionLayer(nn.Module):
    def __init__(self, config: T5Config, has_position_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = _SelfAttention(config, has_position_bias)
        self.layer_norm = RMSNorm(config.width, _EPS)

    def forward(
        self, x: Tensor, bias: Tensor | None, mask: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        attended, bias = self.SelfAttention(self.layer_norm(x).to(dtype), bias, mask)
        return x + attended, bias


class _SelfAttention(nn.Module):
    def __init__(self, config: T5Config, has_position_bias: bool) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads, self.buckets = config.heads, config.buckets
        self.q = Linear(config.width, inner, bias=False)
        self.k = Linear(config.width, inner, bias=False)
        self.v = Linear(config.width, inner, bias=False)
        self.o = Linear(inner, config.width, bias=False)
        self.relative_attention_bias = Embedding(config.buckets, config.heads) if has_position_bias else None

    def forward(self, x: Tensor, bias: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """bias: [B or 1, H, N, N] from the first block, which is given none."""
        if self.relative_attention_bias is not None:
            places = position_buckets(x.shape[1], self.buckets).to(x.device)
            by_place: Tensor = self.relative_attention_bias(places, x.dtype).permute(2, 0, 1)[None]  # [1, H, N, N]
            bias = by_place if mask is None else by_place.masked_fill(~mask[:, None, None, :], -math.inf)
        q, k, v = (self._split_heads(projection(x)) for projection in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)  # its softmax is in float32
        return self.o(attended.transpose(1, 2).flatten(2)), bias

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # [B, N, H * K] -> [B, H, N, K]


class _FeedForwardLayer(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = _GatedMlp(config)
        self.layer_norm = RMSNorm(config.width, _EPS)

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x + self.DenseReluDense(self.layer_norm(x).to(dtype))


class _GatedMlp(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi_0 = Linear(config.width, config.mlp_width, bias=False)
        self.wi_1 = Linear(config.width, config.mlp_width, bias=False)
        self.wo = Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, values = F.gelu(self.wi_0(x), approximate="tanh"), self.wi_1(x)
        if x.dtype == torch.float16:  # their product, and the sum over it, can exceed 65,504
            gate, values = gate.float(), values.float()
        return self.wo(gate * values)


def position_buckets(length: int, buckets: int) -> Tensor:
    """For each query (row) and key (column) [N, N], the bucket of how far apart they are.

    Half of the buckets are for keys behind the query. In each half, the first half has one distance each, and the rest
    widen logarithmically up to 128.
    """
    half, exact = buckets // 2, buckets // 4
    positions = torch.arange(length)
    offset = positions[None, :] - positions[:, None]
    distance = offset.abs()
    # At least `exact`, so that the logarithm of what `where` drops below is finite.
    growth = (distance.clamp(min=exact).float() / exact).log() / math.log(_FURTHEST / exact)
    far = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(distance < exact, distance, far) + half * (offset > 0)
