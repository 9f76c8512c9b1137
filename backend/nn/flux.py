"""The transformer of FLUX.1, with parameters named as in its single-file checkpoints.

Architecture: Black Forest Labs 2024. Double blocks have weights of their own for image and text tokens, single blocks
the same for all; every attention is over both, with positions as rotations of queries and keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.attention import Attend, AttentionPlace, attention
from backend.nn.layers import Linear, SiLU, SplitLinear, widened
from backend.nn.modulation import (
    NUMBER_WIDTH,
    FinalLayer,
    by_rows,
    gated,
    is_modulation,
    layer_norm,
    modulate,
    modulation_of,
    number_embedding,
)
from backend.nn.rope import rotated, rotations
from backend.nn.token_layers import attended, by_token, gelu, split_heads

# Shapes: B batch, N image tokens, M text tokens, D width, H heads, R rows of (timestep, guidance, pooled text), S
# vectors of modulation (shifts, scales, gates) in the whole network.

PATCH = 2
_THETA = 10_000.0
_EMBEDDERS = ("time_in.", "vector_in.", "guidance_in.", "txt_in")
_GUIDANCE_UNITS = 1000.0  # guidance scales are embedded as timesteps are, which reach 1000


@dataclass(frozen=True, kw_only=True)
class FluxConfig:
    """What the names and shapes of a checkpoint say about its transformer.

    in_channels: numbers of a patch: 64 are 16 channels of 2 x 2 latents; 128 and 384 for networks that are given a
        picture. is_guided: whether the network is told a guidance scale (dev, not schnell).
    """

    in_channels: int = 64
    out_channels: int = 64
    width: int = 3072
    heads: int = 24
    mlp_width: int = 12288
    double_blocks: int = 19
    single_blocks: int = 38
    context_dim: int = 4096
    vector_dim: int = 768
    is_guided: bool = True

    @property
    def axes(self) -> tuple[int, int, int]:
        """Numbers of a head that turn with an index that is 0 for all tokens, with the row, and with the column."""
        head_dim = self.width // self.heads
        side = head_dim * 7 // 16 // 2 * 2  # 16, 56 and 56 of 128
        return head_dim - 2 * side, side, side


def is_used_once(layer: str) -> bool:
    """Whether the layer of this name is used by `modulation` and `embed_context`, and not by `forward`."""
    return is_modulation(layer) or layer.startswith(_EMBEDDERS)


class Flux(nn.Module):
    """Predict the velocity from noisy latents, text tokens, and the modulation of a timestep, guidance and text."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.config = config
        self.img_in = Linear(config.in_channels, config.width)
        self.txt_in = Linear(config.context_dim, config.width)
        self.time_in = Embedder(NUMBER_WIDTH, config.width)
        self.vector_in = Embedder(config.vector_dim, config.width)
        self.guidance_in = Embedder(NUMBER_WIDTH, config.width) if config.is_guided else None
        self.double_blocks = nn.ModuleList(DoubleBlock(config, index) for index in range(config.double_blocks))
        self.single_blocks = nn.ModuleList(SingleBlock(config, index) for index in range(config.single_blocks))
        self.final_layer = FinalLayer(config.width, config.out_channels)

    def modulation(self, timesteps: Tensor, vector: Tensor, guidance: Tensor | None = None) -> Tensor:
        """Shifts, scales and gates [R, S, D] for timesteps [R] in 0..1000, pooled texts [R, vector_dim] and guidance
        scales [R], which a network that is not guided does not look at."""
        told = (timesteps, vector) if self.guidance_in is None or guidance is None else (timesteps, vector, guidance)
        return by_rows(self._modulation, *told).unflatten(-1, (-1, self.config.width))

    def embed_context(self, context: Tensor) -> Tensor:
        """Text tokens [B, M, D] of text states [B, M, context_dim]."""
        return self.txt_in(context)

    def forward(
        self, x: Tensor, context: Tensor, modulation: Tensor, rotation: Tensor, *, attend: Attend = attention
    ) -> Tensor:
        """x [B, in_channels / 4, h, w], of which the sides are even; context [B, M, D] from `embed_context`,
        modulation [B, S, D] from `modulation`, rotation [M + N, D / H / 2] from `token_rotations`.

        x may have P times as many channels: the further ones are pictures whose tokens stand behind those of the first.
        Returns [B, out_channels / 4, h, w].
        """
        pictures = x.split(self.config.in_channels // PATCH**2, dim=1)
        tokens = torch.cat([self.img_in(to_patches(picture)) for picture in pictures], dim=1)
        num_text, num_own = context.shape[1], tokens.shape[1] // len(pictures)
        doubles, singles, last = modulation.split(
            (
                DoubleBlock.num_vectors * self.config.double_blocks,
                SingleBlock.num_vectors * self.config.single_blocks,
                2,
            ),
            dim=1,
        )
        for block, vectors in zip(self.double_blocks, doubles.split(DoubleBlock.num_vectors, dim=1), strict=True):
            tokens, context = block(tokens, context, vectors, rotation, attend)
        joined = torch.cat([context, tokens], dim=1)
        for block, vectors in zip(self.single_blocks, singles.split(SingleBlock.num_vectors, dim=1), strict=True):
            joined = block(joined, vectors, rotation, attend, unread=num_text if block is self.single_blocks[-1] else 0)
        own = joined[:, -tokens.shape[1] :][:, :num_own]
        return from_patches(self.final_layer(own, last), *x.shape[-2:])

    def _modulation(self, timesteps: Tensor, vector: Tensor, guidance: Tensor | None = None) -> Tensor:
        embedding = self.time_in(number_embedding(timesteps, vector.dtype)) + self.vector_in(vector)
        if self.guidance_in is not None and guidance is not None:
            embedding = embedding + self.guidance_in(number_embedding(_GUIDANCE_UNITS * guidance, vector.dtype))
        return modulation_of(self, F.silu(embedding))


class Embedder(nn.Module):
    """Two layers from a vector [R, in_dim] to one of the width of the network."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.in_layer = Linear(in_dim, dim)
        self.silu = SiLU()
        self.out_layer = Linear(dim, dim)

    def forward(self, vector: Tensor) -> Tensor:
        return self.out_layer(self.silu(self.in_layer(vector)))


class DoubleBlock(nn.Module):
    """Attention over image and text tokens together, and layers for each apart."""

    num_vectors = 12

    def __init__(self, config: FluxConfig, index: int) -> None:
        super().__init__()
        self.place = AttentionPlace(f"double_blocks.{index}", is_cross=False)
        self.img_mod = Modulation(config.width, 6)
        self.img_attn = Attention(config)
        self.img_mlp = NumberedMlp(config)
        self.txt_mod = Modulation(config.width, 6)
        self.txt_attn = Attention(config)
        self.txt_mlp = NumberedMlp(config)

    def forward(
        self, img: Tensor, txt: Tensor, vectors: Tensor, rotation: Tensor, attend: Attend
    ) -> tuple[Tensor, Tensor]:
        for_img, for_txt = (part[:, :, None].unbind(1) for part in vectors.chunk(2, dim=1))  # six of [B, 1, D] each
        of_txt = self.txt_attn.heads_of(modulate(layer_norm(txt), *for_txt[:2]))
        of_img = self.img_attn.heads_of(modulate(layer_norm(img), *for_img[:2]))
        q, k, v = (torch.cat(pair, dim=1) for pair in zip(of_txt, of_img, strict=True))
        joint = attended(attend, rotated(q, rotation), rotated(k, rotation), v, self.place)
        for_text, for_image = joint.split((txt.shape[1], img.shape[1]), dim=1)

        img = gated(img, for_img[2], self.img_attn.proj(for_image))
        img = gated(img, for_img[5], self.img_mlp(modulate(layer_norm(img), *for_img[3:5])))
        txt = gated(txt, for_txt[2], self.txt_attn.proj(for_text))
        txt = gated(txt, for_txt[5], self.txt_mlp(modulate(layer_norm(txt), *for_txt[3:5])))
        return img, txt


class SingleBlock(nn.Module):
    """Attention and feed-forward layers side by side, over text and image tokens in one row."""

    num_vectors = 3

    def __init__(self, config: FluxConfig, index: int) -> None:
        super().__init__()
        self.place = AttentionPlace(f"single_blocks.{index}", is_cross=False)
        self.heads = config.heads
        self.linear1 = SplitLinear(config.width, [*3 * [config.width], config.mlp_width])
        self.linear2 = Linear(config.width + config.mlp_width, config.width)
        self.norm = QueryKeyNorm(config.width // config.heads)
        self.modulation = Modulation(config.width, 3)

    def forward(self, x: Tensor, vectors: Tensor, rotation: Tensor, attend: Attend, *, unread: int = 0) -> Tensor:
        """unread: so many of the first tokens are attended to, but what becomes of them nobody reads; left out."""
        shift, scale, gate = vectors[:, :, None].unbind(1)
        *qkv, hidden = self.linear1(modulate(layer_norm(x), shift, scale))
        q, k, v = split_heads(qkv, self.heads)
        q, k = self.norm(q[:, unread:], k)
        found = attended(attend, rotated(q, rotation[unread:]), rotated(k, rotation), v, self.place)
        change = self.linear2(torch.cat([found, gelu(hidden[:, unread:])], dim=-1))
        return gated(x[:, unread:], gate, change)


class Attention(nn.Module):
    """The projections around an attention."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = SplitLinear(config.width, 3 * [config.width])
        self.norm = QueryKeyNorm(config.width // config.heads)
        self.proj = Linear(config.width, config.width)

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, N, H, D / H], of tokens [B, N, D]."""
        q, k, v = split_heads(self.qkv(x), self.heads)
        return *self.norm(q, k), v


class QueryKeyNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query_norm = ScaleNorm(dim)
        self.key_norm = ScaleNorm(dim)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.query_norm(q), self.key_norm(k)


class ScaleNorm(nn.Module):
    """A root-mean-square norm, of which checkpoints call the weight `scale`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.scale.shape, widened(self.scale, x), eps=1e-6)


class Modulation(nn.Module):
    """The layer that makes the vectors of a block; only `Flux.modulation` calls it."""

    def __init__(self, dim: int, num_vectors: int) -> None:
        super().__init__()
        self.lin = Linear(dim, num_vectors * dim)


class NumberedMlp(nn.Sequential):
    """Two layers around a GELU, `0` and `2` in checkpoints."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__(
            Linear(config.width, config.mlp_width), nn.GELU(approximate="tanh"), Linear(config.mlp_width, config.width)
        )

    def forward(self, input: Tensor) -> Tensor:
        return by_token(super().forward, input)


def token_rotations(config: FluxConfig, num_text: int, height: int, width: int, num_pictures: int = 1) -> Tensor:
    """Rotations [M + N, D / H / 2] of text tokens, all at the origin, and of those of height x width patches.

    Pictures lie behind each other along the first axis; N counts the patches of all of them.
    """
    rows, columns = torch.arange(height), torch.arange(width)
    grids = [
        torch.stack([torch.full((height, width), index), *torch.meshgrid(rows, columns, indexing="ij")], dim=-1)
        for index in range(num_pictures)
    ]
    places = [grid.flatten(0, 1).float() for grid in grids]
    return rotations(torch.cat([torch.zeros(num_text, 3), *places]), config.axes, _THETA)


def to_patches(x: Tensor) -> Tensor:
    """Latents [B, C, h, w] -> [B, h / 2 * w / 2, C * 2 * 2], the pixels of a patch innermost."""
    grid = x.unflatten(-1, (-1, PATCH)).unflatten(2, (-1, PATCH))  # [B, C, h / 2, 2, w / 2, 2]
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def from_patches(tokens: Tensor, height: int, width: int) -> Tensor:
    """The reverse of `to_patches`."""
    grid = tokens.unflatten(1, (height // PATCH, -1)).unflatten(-1, (-1, PATCH, PATCH))
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(tokens.shape[0], -1, height, width)
