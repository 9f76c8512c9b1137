"""The U-Net of Stable Diffusion 1.x, 2.x and XL, with parameters named as in their single-file checkpoints.

Architecture: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.attention import Attend, AttentionPlace, attention
from backend.nn.hypernetwork import ContextChange, Hypernetwork, HypernetworkConfig
from backend.nn.layers import Conv2d, GroupNorm, LayerNorm, Linear, SiLU, outputs_of, rows_at_a_time

# Shapes: B batch, C channels, H x W latent size, N = H * W tokens, M context tokens, D head width. Of B images, B / G
# consecutive ones share each of the G rows of a context or vector.

KeysValues: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]
"""By the name of a transformer block, the keys and values [G, heads, M, D] of its attention to a context."""


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """What the names and shapes of a checkpoint say about its U-Net.

    transformer_depth: transformer blocks behind each residual block, per level; 0 for none.
    input_depths, output_depths: the same for each residual block of the way down, and of the way up, in the order of
        the checkpoint; None where those of a level are alike (all but SSD-1B and Segmind-Vega).
    middle_res_blocks: 2, or in distilled networks 1 or 0; middle_depth: transformer blocks behind the first.
    num_heads: attention heads everywhere (SD 1.x: 8), or None when `head_dim` is fixed (SD 2.x, XL: 64).
    adm_in_channels: width of the extra vector that is added to the timestep embedding (XL), or None.
    guidance_width: width of the embedding of the guidance scale that the network itself is told (LCM), or None.
    """

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    transformer_depth: tuple[int, ...] = (1, 1, 1, 0)
    input_depths: tuple[int, ...] | None = None
    output_depths: tuple[int, ...] | None = None
    middle_res_blocks: int = 2
    middle_depth: int = 1
    context_dim: int = 768
    num_heads: int | None = 8
    head_dim: int | None = None
    linear_projections: bool = False
    norm_groups: int = 32
    adm_in_channels: int | None = None
    guidance_width: int | None = None

    def heads(self, channels: int) -> int:
        """Attention heads at a level of `channels` channels."""
        if self.num_heads is not None:
            return self.num_heads
        if self.head_dim is None:
            raise ValueError("UNetConfig needs num_heads or head_dim")
        return channels // self.head_dim

    def depth_down(self, level: int, index: int) -> int:
        """Transformer blocks behind residual block `index` of a level, on the way down."""
        if self.input_depths is None:
            return self.transformer_depth[level]
        return self.input_depths[level * self.num_res_blocks + index]

    def depth_up(self, level: int, index: int) -> int:
        """Transformer blocks behind residual block `index` of a level, on the way up."""
        if self.output_depths is None:
            return self.transformer_depth[level]
        before = (len(self.channel_mult) - 1 - level) * (self.num_res_blocks + 1)
        return self.output_depths[before + index]


class UNet(nn.Module):
    """Predict noise (or velocity) from a noisy latent, its timestep and a text context.

    hypernetworks: what changes the contexts of its attentions, with weights beside its own; none for most.
    """

    def __init__(self, config: UNetConfig, hypernetworks: Sequence[HypernetworkConfig] = ()) -> None:
        super().__init__()
        self.config = config
        self.hypernetworks = nn.ModuleList([Hypernetwork(one) for one in hypernetworks])
        width = config.model_channels
        embedding = 4 * width
        self.time_embed = TimeEmbedding(width, embedding, config.guidance_width)
        if config.adm_in_channels is not None:
            self.label_emb = nn.Sequential(
                nn.Sequential(Linear(config.adm_in_channels, embedding), SiLU(), Linear(embedding, embedding))
            )

        self.input_blocks = nn.ModuleList([Block(Conv2d(config.in_channels, width, 3, padding=1))])
        skip_channels = [width]
        channels = width
        for level, mult in enumerate(config.channel_mult):
            for index in range(config.num_res_blocks):
                layers: list[nn.Module] = [ResBlock(channels, mult * width, embedding, config.norm_groups)]
                channels = mult * width
                if depth := config.depth_down(level, index):
                    name = f"input_blocks.{len(self.input_blocks)}.1"
                    layers.append(SpatialTransformer(config, channels, depth, name))
                self.input_blocks.append(Block(*layers))
                skip_channels.append(channels)
            if level < len(config.channel_mult) - 1:
                self.input_blocks.append(Block(Downsample(channels)))
                skip_channels.append(channels)

        middle: list[nn.Module] = [
            ResBlock(channels, channels, embedding, config.norm_groups) for _ in range(config.middle_res_blocks)
        ]
        if config.middle_depth:
            middle.insert(1, SpatialTransformer(config, channels, config.middle_depth, "middle_block.1"))
        self.middle_block = Block(*middle)

        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for index in range(config.num_res_blocks + 1):
                layers = [ResBlock(channels + skip_channels.pop(), mult * width, embedding, config.norm_groups)]
                channels = mult * width
                if depth := config.depth_up(level, index):
                    name = f"output_blocks.{len(self.output_blocks)}.1"
                    layers.append(SpatialTransformer(config, channels, depth, name))
                if level and index == config.num_res_blocks:
                    layers.append(Upsample(channels))
                self.output_blocks.append(Block(*layers))

        self.out = nn.Sequential(
            GroupNorm(config.norm_groups, channels), SiLU(), Conv2d(channels, config.out_channels, 3, padding=1)
        )

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | KeysValues,
        y: Tensor | None = None,
        *,
        guidance: Tensor | None = None,
        attend: Attend = attention,
        strengths: Tensor | None = None,
    ) -> Tensor:
        """x [B, in_channels, H, W], timesteps [B] (0..999, fractions allowed), context [G, M, context_dim] or its

        `keys_values`, with which the result is the same to the bit. y [G, adm_in_channels] and guidance [G], a scale,
        when the configuration has them. strengths [N]: of the hypernetworks, the same as for `keys_values`; None where
        there are none. Returns [B, out_channels, H, W].
        """
        change = self._change(strengths)
        embedding = timestep_embedding(timesteps, self.config.model_channels).to(x.dtype)
        if guidance is not None and self.config.guidance_width is not None:
            told = guidance_embedding(guidance, self.config.guidance_width).to(x.dtype)
            embedding = self.time_embed(embedding, _for_images(told, len(x)))
        else:
            embedding = self.time_embed(embedding)
        if y is not None:
            embedding = embedding + _for_images(self.label_emb(y), len(x))
        embedding = F.silu(embedding)  # every residual block starts with this same activation

        skips: list[Tensor] = []
        for block in self.input_blocks:
            x = block(x, embedding, context, attend, change)
            skips.append(x)
        x = self.middle_block(x, embedding, context, attend, change)
        for block in self.output_blocks:
            x = torch.cat([x, skips.pop()], dim=1)
            size = skips[-1].shape[-2:] if skips else None
            x = block(x, embedding, context, attend, change, upsampled_size=size)
        return self.out(x)

    def keys_values(self, context: Tensor, strengths: Tensor | None = None) -> KeysValues:
        """What all layers attend to of a context [G, M, context_dim], which is the same at every step."""
        change = self._change(strengths)
        for_keys, for_values = (context, context) if change is None else change(context)
        blocks = [module for module in self.modules() if isinstance(module, TransformerBlock)]
        return {block.attn2.place.block: block.attn2.keys_values(for_keys, for_values) for block in blocks}

    def _change(self, strengths: Tensor | None) -> ContextChange | None:
        return None if strengths is None else ContextChange(self.hypernetworks, strengths)


class TimeEmbedding(nn.Sequential):
    """Two layers over the sinusoidal embedding of a timestep, to which that of the guidance scale may be added."""

    def __init__(self, width: int, embedding: int, guidance_width: int | None) -> None:
        super().__init__(Linear(width, embedding), SiLU(), Linear(embedding, embedding))
        self.cond_proj = None if guidance_width is None else Linear(guidance_width, width, bias=False)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - Sequential passes one argument, we pass two
        self, timestep: Tensor, guidance: Tensor | None = None
    ) -> Tensor:
        """timestep [B, width] and guidance [B, guidance_width], both sinusoidal, to [B, embedding]."""
        if guidance is not None and self.cond_proj is not None:
            timestep = timestep + self.cond_proj(guidance)
        first, activation, second = list(self)[:3]
        return second(activation(first(timestep)))


class Block(nn.Sequential):
    """Layers that run one after the other, each fed what its kind needs."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - Sequential passes one argument, we pass four
        self,
        x: Tensor,
        embedding: Tensor,
        context: Tensor | KeysValues,
        attend: Attend,
        change: ContextChange | None = None,
        upsampled_size: Sequence[int] | None = None,
    ) -> Tensor:
        for layer in self:
            match layer:
                case ResBlock():
                    x = layer(x, embedding)
                case SpatialTransformer():
                    x = layer(x, context, attend, change)
                case Upsample():
                    x = layer(x, upsampled_size)
                case _:
                    x = layer(x)
        return x


class ResBlock(nn.Module):
    """Two convolutions with the timestep added between them."""

    def __init__(self, channels: int, out_channels: int, embedding: int, norm_groups: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            GroupNorm(norm_groups, channels), SiLU(), Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(SiLU(), Linear(embedding, out_channels))
        self.out_layers = nn.Sequential(
            GroupNorm(norm_groups, out_channels),
            SiLU(),
            nn.Dropout(0),  # holds the index that checkpoints give the convolution
            Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if channels == out_channels else Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, activated_embedding: Tensor) -> Tensor:
        h = self.in_layers(x)
        h = h + self.emb_layers[1](activated_embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int] | None) -> Tensor:
        """Enlarge to `size`, that of the skip that follows: sides that are odd were rounded up on the way down."""
        if size is None:
            size = (2 * x.shape[-2], 2 * x.shape[-1])
        return self.conv(F.interpolate(x, size=tuple(size), mode="nearest"))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map."""

    def __init__(self, config: UNetConfig, channels: int, depth: int, name: str) -> None:
        super().__init__()
        projection = Linear if config.linear_projections else PixelLinear
        self.norm = GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.proj_in = projection(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, config.context_dim, config.heads(channels), f"{name}.transformer_blocks.{index}")
            for index in range(depth)
        )
        self.proj_out = projection(channels, channels)

    def forward(
        self, x: Tensor, context: Tensor | KeysValues, attend: Attend, change: ContextChange | None = None
    ) -> Tensor:
        tokens = self.proj_in(_to_tokens(self.norm(x)))  # [B, N, C]
        for block in self.transformer_blocks:
            tokens = block(tokens, context, attend, change)
        return x + _to_image(self.proj_out(tokens), x)


class PixelLinear(Conv2d):
    """The 1x1 convolution that SD 1.x has in place of a linear layer, for tokens [B, N, C]."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        return outputs_of(self, input, [range(self.out_channels)])[0]


class TransformerBlock(nn.Module):
    def __init__(self, dim: int, context_dim: int, heads: int, name: str) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = LayerNorm(dim), LayerNorm(dim), LayerNorm(dim)
        self.attn1 = CrossAttention(dim, dim, heads, AttentionPlace(name, is_cross=False))
        self.attn2 = CrossAttention(dim, context_dim, heads, AttentionPlace(name, is_cross=True))
        self.ff = FeedForward(dim)

    def forward(
        self, x: Tensor, context: Tensor | KeysValues, attend: Attend, change: ContextChange | None = None
    ) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed, attend, change)
        x = x + self.attn2(self.norm2(x), context, attend, change)
        return x + self.ff(self.norm3(x))


class CrossAttention(nn.Module):
    """Attend from x [B, N, dim] to context [G, M, context_dim], or to what `change` makes of it."""

    def __init__(self, dim: int, context_dim: int, heads: int, place: AttentionPlace) -> None:
        super().__init__()
        self.heads = heads
        self.place = place
        self.to_q = Linear(dim, dim, bias=False)
        self.to_k = Linear(context_dim, dim, bias=False)
        self.to_v = Linear(context_dim, dim, bias=False)
        self.to_out = nn.Sequential(Linear(dim, dim))

    def forward(
        self, x: Tensor, context: Tensor | KeysValues, attend: Attend, change: ContextChange | None = None
    ) -> Tensor:
        q = self._split_heads(self.to_q(x))
        if isinstance(context, Tensor):
            k, v = self.keys_values(*((context, context) if change is None else change(context)))
        else:
            k, v = context[self.place.block]
        k, v = (_for_images(states, len(x)) for states in (k, v))
        return self.to_out(attend(q, k, v, self.place).transpose(1, 2).flatten(2))

    def keys_values(self, for_keys: Tensor, for_values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [G, heads, M, D] of the contexts for each, which are one without hypernetworks."""
        return self._split_heads(self.to_k(for_keys)), self._split_heads(self.to_v(for_values))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # [B, N, C] -> [B, H, N, D]


class FeedForward(nn.Module):
    """Linear layers around a GELU-gated unit (Shazeer 2020, "GLU Variants Improve Transformer")."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # `net.1` is a dropout without parameters in the checkpoints' network.
        self.net = nn.ModuleList([GatedProjection(dim, 4 * dim), nn.Identity(), Linear(4 * dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        parts = [self.net[2](self.net[0](part)) for part in rows_at_a_time(tokens, 8 * x.shape[-1])]
        return torch.cat(parts).view(x.shape)


class GatedProjection(nn.Module):
    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = Linear(dim, 2 * out_dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


def used_once(parameters: Iterable[str]) -> tuple[str, ...]:
    """Of the layers of a U-Net, by the names of its parameters, those that only `keys_values` uses."""
    once = (".attn2.to_k.weight", ".attn2.to_v.weight")
    return tuple(name.removesuffix(".weight") for name in parameters if name.endswith(once))


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding [B, width] in float32: cosines, then sines, of frequencies from 1 down to 1/10000."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def guidance_embedding(scale: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding [G, width] in float32 of guidance scales [G] (Luo et al. 2023, LCM): sines, then cosines."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=scale.device)
    frequencies = torch.exp(-math.log(10000) * steps / (half - 1))
    angles = 1000 * (scale.float() - 1)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _for_images(rows: Tensor, images: int) -> Tensor:
    """G rows repeated for consecutive images."""
    return rows if len(rows) == images else rows.repeat_interleave(images // len(rows), dim=0)


def _to_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)  # [B, C, H, W] -> [B, N, C]; a view when x is channels-last


def _to_image(tokens: Tensor, like: Tensor) -> Tensor:
    height, width = like.shape[-2:]
    return tokens.view(tokens.shape[0], height, width, -1).permute(0, 3, 1, 2)  # channels-last [B, C, H, W]
