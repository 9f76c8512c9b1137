"""The transformer of Stable Diffusion 3 and 3.5, with parameters named as in their single-file checkpoints.

Architecture: Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis". Image and
text tokens have weights of their own and meet in one attention. SD 3.5 normalises queries and keys; in SD 3.5 medium
the image tokens of the first blocks attend to themselves a second time.

The table of positions `pos_embed`, of whose hundreds of megabytes a picture needs one crop, is no part of the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.attention import Attend, AttentionPlace, attention
from backend.nn.layers import Linear, RMSNorm, SplitLinear
from backend.nn.modulation import (
    NUMBER_WIDTH,
    Embedder,
    FinalLayer,
    by_rows,
    gated,
    is_modulation,
    layer_norm,
    modulate,
    modulation_of,
    number_embedding,
)
from backend.nn.token_layers import Mlp, PatchEmbedding, attended, from_patches, split_heads

# Shapes: B batch, N image tokens, M text tokens, D width, H heads, R rows of (timestep, pooled text), S vectors of
# modulation (shifts, scales, gates) in the whole network.

_EMBEDDERS = ("t_embedder.", "y_embedder.", "context_embedder")


@dataclass(frozen=True, kw_only=True)
class MMDiTConfig:
    """What the names and shapes of a checkpoint say about its transformer.

    dual_blocks: how many blocks, from the first, have the second attention of SD 3.5 medium.
    has_query_norm: whether queries and keys are normalised (SD 3.5).
    """

    in_channels: int = 16
    out_channels: int = 16
    patch: int = 2
    width: int = 1536
    heads: int = 24
    blocks: int = 24
    mlp_width: int = 6144
    context_dim: int = 4096
    vector_dim: int = 2048
    dual_blocks: int = 0
    has_query_norm: bool = False


def is_used_once(layer: str) -> bool:
    """Whether the layer of this name is used by `modulation` and `embed_context`, and not by `forward`."""
    return is_modulation(layer) or layer.startswith(_EMBEDDERS)


class MMDiT(nn.Module):
    """Predict the velocity from noisy latents, text tokens, and the modulation of a timestep and a pooled text."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbedding(config.in_channels, config.width, config.patch)
        self.t_embedder = Embedder(NUMBER_WIDTH, config.width)
        self.y_embedder = Embedder(config.vector_dim, config.width)
        self.context_embedder = Linear(config.context_dim, config.width)
        blocks = [JointBlock(config, index) for index in range(config.blocks)]
        self.joint_blocks = nn.ModuleList(blocks)
        self.final_layer = FinalLayer(config.width, config.patch**2 * config.out_channels)
        self._num_vectors = [*(block.num_vectors for block in blocks), FinalLayer.num_vectors]

    def modulation(self, timesteps: Tensor, vector: Tensor) -> Tensor:
        """Shifts, scales and gates [R, S, D] for timesteps [R] in 0..1000 and pooled texts [R, vector_dim]."""
        return by_rows(self._modulation, timesteps, vector).unflatten(-1, (-1, self.config.width))

    def embed_context(self, context: Tensor) -> Tensor:
        """Text tokens [B, M, D] of text states [B, M, context_dim]."""
        return self.context_embedder(context)

    def forward(
        self, x: Tensor, context: Tensor, modulation: Tensor, positions: Tensor, *, attend: Attend = attention
    ) -> Tensor:
        """x [B, in_channels, h, w], of which the sides are multiples of the patch; context [B, M, D] from
        `embed_context`, modulation [B, S, D] from `modulation`, positions [1, N, D] from `cropped_positions`.

        Returns [B, out_channels, h, w].
        """
        tokens = self.x_embedder(x) + positions
        told = modulation.split(self._num_vectors, dim=1)
        for block, vectors in zip(self.joint_blocks, told[:-1], strict=True):
            tokens, context = block(tokens, context, vectors, attend)
        return from_patches(self.final_layer(tokens, told[-1]), x, self.config.patch)

    def _modulation(self, timesteps: Tensor, vector: Tensor) -> Tensor:
        embedding = self.t_embedder(number_embedding(timesteps, vector.dtype)) + self.y_embedder(vector)
        return modulation_of(self, F.silu(embedding))


class JointBlock(nn.Module):
    """Attention over image and text tokens together, and layers for each apart."""

    def __init__(self, config: MMDiTConfig, index: int) -> None:
        super().__init__()
        is_last = index == config.blocks - 1
        self.place = AttentionPlace(f"joint_blocks.{index}", is_cross=False)
        self.image_place = AttentionPlace(f"joint_blocks.{index}.x_block.attn2", is_cross=False)
        # Named in the order in which their vectors follow each other.
        self.x_block = Stream(config, is_dual=index < config.dual_blocks)
        self.context_block = Stream(config, is_last=is_last)
        self.num_vectors = self.x_block.num_vectors + self.context_block.num_vectors

    def forward(self, x: Tensor, context: Tensor, vectors: Tensor, attend: Attend) -> tuple[Tensor, Tensor]:
        """Image tokens [B, N, D] and text tokens [B, M, D]; vectors [B, num_vectors, D]. Returns new tokens of both,
        except that the last block leaves those of the text as they are, since nothing follows that reads them.
        """
        num_tokens = context.shape[1]
        for_x, for_context = (
            part[:, :, None].unbind(1)  # of [B, 1, D]
            for part in vectors.split((self.x_block.num_vectors, self.context_block.num_vectors), dim=1)
        )
        normed = layer_norm(x)
        of_x = self.x_block.attn.heads_of(modulate(normed, *for_x[:2]))
        of_context = self.context_block.attn.heads_of(modulate(layer_norm(context), *for_context[:2]))
        q, k, v = (torch.cat(pair, dim=1) for pair in zip(of_context, of_x, strict=True))
        if self.context_block.is_last:
            q, num_tokens = of_x[0], 0
        joint = attended(attend, q, k, v, self.place)

        x = gated(x, for_x[2], self.x_block.attn.proj(joint[:, num_tokens:]))
        if self.x_block.attn2 is not None:
            q, k, v = self.x_block.attn2.heads_of(modulate(normed, *for_x[6:8]))
            x = gated(x, for_x[8], self.x_block.attn2.proj(attended(attend, q, k, v, self.image_place)))
        x = self.x_block.with_mlp(x, *for_x[3:6])
        if self.context_block.is_last:
            return x, context
        context = gated(context, for_context[2], self.context_block.attn.proj(joint[:, :num_tokens]))
        return x, self.context_block.with_mlp(context, *for_context[3:6])


class Stream(nn.Module):
    """The layers of a block for one kind of tokens.

    is_dual: with a second attention. is_last: of the text in the last block, which is read, but not changed.
    """

    def __init__(self, config: MMDiTConfig, *, is_dual: bool = False, is_last: bool = False) -> None:
        super().__init__()
        self.is_last = is_last
        self.num_vectors = 9 if is_dual else 2 if is_last else 6
        self.attn = Attention(config, has_output=not is_last)
        self.attn2 = Attention(config) if is_dual else None
        if not is_last:
            self.mlp = Mlp(config.width, config.mlp_width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(config.width, self.num_vectors * config.width))

    def with_mlp(self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        return gated(x, gate, self.mlp(modulate(layer_norm(x), shift, scale)))


class Attention(nn.Module):
    """The projections around an attention."""

    def __init__(self, config: MMDiTConfig, *, has_output: bool = True) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = SplitLinear(config.width, 3 * [config.width])
        head_dim = config.width // config.heads
        self.ln_q = RMSNorm(head_dim, eps=1e-6) if config.has_query_norm else None
        self.ln_k = RMSNorm(head_dim, eps=1e-6) if config.has_query_norm else None
        if has_output:
            self.proj = Linear(config.width, config.width)

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, N, H, D / H], of tokens [B, N, D]."""
        q, k, v = split_heads(self.qkv(x), self.heads)
        return q if self.ln_q is None else self.ln_q(q), k if self.ln_k is None else self.ln_k(k), v


def cropped_positions(table: Tensor, height: int, width: int) -> Tensor:
    """The positions [1, height * width, D] of a picture in the middle of a table [1, size * size, D].

    height, width: in patches. Raises ValueError for a picture that is larger than the table.
    """
    size = math.isqrt(table.shape[1])
    if max(height, width) > size:
        raise ValueError(f"{width} x {height} patches do not fit into a table of {size} x {size} positions")
    top, left = (size - height) // 2, (size - width) // 2
    grid = table.view(1, size, size, -1)[:, top : top + height, left : left + width]
    return grid.flatten(1, 2)
