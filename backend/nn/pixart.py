"""The transformer of PixArt-alpha and PixArt-Sigma, with parameters named as in their published checkpoints.

Architecture: Chen et al. 2023, "PixArt-alpha", and Chen et al. 2024, "PixArt-Sigma". All blocks share one set of
shifts, scales and gates, to each of which a block adds a table of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.attention import Attend, AttentionPlace, attention
from backend.nn.layers import Linear, SplitLinear
from backend.nn.modulation import NUMBER_WIDTH, Embedder, by_rows, gated, layer_norm, modulate, number_embedding
from backend.nn.token_layers import Mlp, PatchEmbedding, attended, from_patches, join_heads, split_heads

# Shapes: B batch, N image tokens, M text tokens, D width, H heads, G groups of B / G images with a text in common,
# R rows of (timestep, sizes).

_NUM_VECTORS = 6
_EMBEDDERS = ("t_embedder.", "t_block.", "y_embedder.", "csize_embedder.", "ar_embedder.")


@dataclass(frozen=True, kw_only=True)
class PixArtConfig:
    """What the names and shapes of a checkpoint say about its transformer.

    out_channels: twice the input's where the network also predicts a variance, of which nothing is used.
    is_told_sizes: whether it is told the size and the shape of the picture (PixArt-alpha at 1024 pixels).
    """

    in_channels: int = 4
    out_channels: int = 8
    patch: int = 2
    width: int = 1152
    heads: int = 16
    blocks: int = 28
    mlp_width: int = 4608
    context_dim: int = 4096
    is_told_sizes: bool = False


def is_used_once(layer: str) -> bool:
    """Whether the layer of this name is used by `modulation` and `embed_context`, and not by `forward`."""
    return layer.startswith(_EMBEDDERS)


class PixArt(nn.Module):
    """Predict the noise from noisy latents, text tokens, and the modulation of a timestep."""

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbedding(config.in_channels, config.width, config.patch)
        self.t_embedder = Embedder(NUMBER_WIDTH, config.width)
        self.t_block = nn.Sequential(nn.SiLU(), Linear(config.width, _NUM_VECTORS * config.width))
        self.y_embedder = CaptionEmbedder(config)
        self.csize_embedder = Embedder(NUMBER_WIDTH, config.width // 3) if config.is_told_sizes else None
        self.ar_embedder = Embedder(NUMBER_WIDTH, config.width // 3) if config.is_told_sizes else None
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.blocks))
        self.final_layer = FinalLayer(config)

    def modulation(self, timesteps: Tensor, sizes: Tensor, dtype: torch.dtype) -> Tensor:
        """Shifts, scales and gates [R, 7, D] in `dtype` for timesteps [R] in 0..999. The seventh is the embedding of
        the timestep itself, for the last layer.

        sizes: height and width in pixels, and height / width [R, 3]; looked at by a network that is told them.
        """
        rows = by_rows(partial(self._modulation, dtype), timesteps, sizes)
        return rows.unflatten(-1, (-1, self.config.width))

    def embed_context(self, context: Tensor) -> Tensor:
        """Text tokens [G, M, D] of text states [G, M, context_dim]."""
        return self.y_embedder(context)

    def forward(
        self, x: Tensor, context: Sequence[Tensor], modulation: Tensor, positions: Tensor, *, attend: Attend = attention
    ) -> Tensor:
        """x [B, in_channels, h, w], of which the sides are multiples of the patch; context: for each group the text
        tokens [M, D] that count, of `embed_context`; modulation [B, 7, D] from `modulation`; positions [1, N, D] from
        `grid_positions`.

        Returns [B, in_channels, h, w].
        """
        tokens = self.x_embedder(x) + positions
        for block in self.blocks:
            tokens = block(tokens, context, modulation[:, :_NUM_VECTORS], attend)
        patches = self.final_layer(tokens, modulation[:, _NUM_VECTORS:])
        return from_patches(patches, x, self.config.patch)[:, : x.shape[1]]

    def _modulation(self, dtype: torch.dtype, timesteps: Tensor, sizes: Tensor) -> Tensor:
        embedding = self.t_embedder(number_embedding(timesteps, dtype))
        if self.csize_embedder is not None and self.ar_embedder is not None:
            height, width, ratio = (number_embedding(numbers, dtype) for numbers in sizes.unbind(1))
            told = (self.csize_embedder(height), self.csize_embedder(width), self.ar_embedder(ratio))
            embedding = embedding + torch.cat(told, dim=-1)
        return torch.cat([self.t_block[1](F.silu(embedding)), embedding], dim=-1)


class CaptionEmbedder(nn.Module):
    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        self.y_proj = Mlp(config.context_dim, config.width, config.width)

    def forward(self, context: Tensor) -> Tensor:
        return self.y_proj(context)


class Block(nn.Module):
    """Attention of the image tokens to themselves, then to the text, then feed-forward layers."""

    def __init__(self, config: PixArtConfig, index: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(_NUM_VECTORS, config.width))
        self.attn = SelfAttention(config, AttentionPlace(f"blocks.{index}", is_cross=False))
        self.cross_attn = CrossAttention(config, AttentionPlace(f"blocks.{index}", is_cross=True))
        self.mlp = Mlp(config.width, config.mlp_width)

    def forward(self, x: Tensor, context: Sequence[Tensor], vectors: Tensor, attend: Attend) -> Tensor:
        told = (self.scale_shift_table.to(vectors.dtype) + vectors)[:, :, None].unbind(1)  # six of [B, 1, D]
        x = gated(x, told[2], self.attn(modulate(layer_norm(x), *told[:2]), attend))
        x = x + self.cross_attn(x, context, attend)
        return gated(x, told[5], self.mlp(modulate(layer_norm(x), *told[3:5])))


class SelfAttention(nn.Module):
    def __init__(self, config: PixArtConfig, place: AttentionPlace) -> None:
        super().__init__()
        self.heads = config.heads
        self.place = place
        self.qkv = SplitLinear(config.width, 3 * [config.width])
        self.proj = Linear(config.width, config.width)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        q, k, v = split_heads(self.qkv(x), self.heads)
        return self.proj(attended(attend, q, k, v, self.place))


class CrossAttention(nn.Module):
    """Attend from x [B, N, D] to the text tokens [M, D] of each group, whose numbers may differ."""

    def __init__(self, config: PixArtConfig, place: AttentionPlace) -> None:
        super().__init__()
        self.heads = config.heads
        self.place = place
        self.q_linear = Linear(config.width, config.width)
        self.kv_linear = Linear(config.width, 2 * config.width)
        self.proj = Linear(config.width, config.width)

    def forward(self, x: Tensor, context: Sequence[Tensor], attend: Attend) -> Tensor:
        queries = self.q_linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(len(context))
        found = [self._attend_to(tokens, q, attend) for tokens, q in zip(context, queries, strict=True)]
        return self.proj(found[0] if len(found) == 1 else torch.cat(found))

    def _attend_to(self, tokens: Tensor, q: Tensor, attend: Attend) -> Tensor:
        kv = self.kv_linear(tokens).unflatten(-1, (2, self.heads, -1)).permute(1, 2, 0, 3)  # [2, H, M, D / H]
        k, v = kv[:, None].expand(-1, q.shape[0], -1, -1, -1)
        return join_heads(attend(q, k, v, self.place))


class FinalLayer(nn.Module):
    """The last norm and the projection to patches."""

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        self.linear = Linear(config.width, config.patch**2 * config.out_channels)
        self.scale_shift_table = nn.Parameter(torch.zeros(2, config.width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x [B, N, D], embedding [B, 1, D] of the timestep."""
        shift, scale = (self.scale_shift_table.to(embedding.dtype) + embedding)[:, :, None].unbind(1)
        return self.linear(modulate(layer_norm(x), shift, scale))


def grid_positions(dim: int, height: int, width: int, span: float) -> Tensor:
    """Sines and cosines [1, height * width, dim] of the positions of patches: of the column, then of the row.

    span: the coordinate that the far end of each side has, however many patches there are along it.
    """
    rows, columns = (torch.arange(length, dtype=torch.float32) * (span / length) for length in (height, width))
    frequencies = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    of_rows, of_columns = (torch.outer(places.double(), frequencies) for places in (rows, columns))
    angles = (of_columns.expand(height, -1, -1), of_rows[:, None].expand(-1, width, -1))
    return torch.cat([f(part) for part in angles for f in (torch.sin, torch.cos)], dim=-1).flatten(0, 1)[None].float()
