"""The KL autoencoder of Stable Diffusion and FLUX, with parameters named as under `first_stage_model.` in checkpoints.

Architecture: Esser et al. 2021 and Rombach et al. 2022. Latents here are the autoencoder's own; the scale that
diffusion works with (0.18215 for SD 1.x) belongs to the family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.attention import AttentionPlace, attention
from backend.nn.layers import Conv2d, GroupNorm, silu

Normalise: TypeAlias = Callable[[GroupNorm, Tensor], Tensor]
"""How a norm is applied to a feature map: by the map's own statistics, or those of a larger one."""


def by_itself(norm: GroupNorm, x: Tensor) -> Tensor:
    return norm(x)


# Shapes: B batch, C channels, Z latent channels, H x W image size, h x w latent size.


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """What the names and shapes of a checkpoint say about its autoencoder.

    has_quant_conv: whether 1x1 convolutions mix the channels of the latents; those of SD 3 and FLUX have none.
    """

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    latent_channels: int = 4
    in_channels: int = 3
    norm_groups: int = 32
    has_quant_conv: bool = True

    @property
    def downscale(self) -> int:
        """Image pixels per latent pixel, along a side."""
        return 2 ** (len(self.channel_mult) - 1)


class Autoencoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        if config.has_quant_conv:
            self.quant_conv = Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
            self.post_quant_conv = Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each [B, Z, h, w], of the latents of an image [B, 3, H, W] in -1..1."""
        moments = self.encoder(image)
        if self.config.has_quant_conv:
            moments = self.quant_conv(moments)
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, latents: Tensor) -> Tensor:
        """The image [B, 3, H, W], about -1..1, of latents [B, Z, h, w]."""
        if self.config.has_quant_conv:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)


class Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels = config.channels
        self.conv_in = Conv2d(config.in_channels, channels, 3, padding=1)
        self.down = nn.ModuleList()
        for level, mult in enumerate(config.channel_mult):
            blocks = nn.ModuleList()
            for _ in range(config.num_res_blocks):
                blocks.append(ResnetBlock(channels, mult * config.channels, config.norm_groups))
                channels = mult * config.channels
            is_last = level == len(config.channel_mult) - 1
            self.down.append(Level(blocks, downsample=None if is_last else Downsample(channels)))
        self.mid = Middle(channels, config.norm_groups)
        self.norm_out = GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.conv_out = Conv2d(channels, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.coarse(self.fine(x))

    def fine(self, x: Tensor, normalise: Normalise = by_itself) -> Tensor:
        """From pixels to feature maps at the size of the latents: all that looks at a neighbourhood only, but norms."""
        x = self.conv_in(x)
        for level in list(self.down)[:-1]:
            x = level(x, normalise)
        return x

    def coarse(self, x: Tensor) -> Tensor:
        """From there to mean and log-variance [B, 2 * Z, h, w]."""
        return self.conv_out(silu(self.norm_out(self.mid(self.down[-1](x)))))


class Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels = config.channels * config.channel_mult[-1]
        self.conv_in = Conv2d(config.latent_channels, channels, 3, padding=1)
        self.mid = Middle(channels, config.norm_groups)
        levels: list[nn.Module] = []
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            blocks = nn.ModuleList()
            for _ in range(config.num_res_blocks + 1):
                blocks.append(ResnetBlock(channels, mult * config.channels, config.norm_groups))
                channels = mult * config.channels
            levels.append(Level(blocks, upsample=Upsample(channels) if level else None))
        self.up = nn.ModuleList(reversed(levels))  # checkpoints number the levels from the image side
        self.norm_out = GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.conv_out = Conv2d(channels, config.in_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        return self.fine(self.coarse(z))

    def coarse(self, z: Tensor) -> Tensor:
        """From latents [B, Z, h, w] to feature maps [B, C, h, w] of the same size."""
        return cast(Level, self.up[-1]).at_its_resolution(self.mid(self.conv_in(z)))

    def fine(self, x: Tensor, normalise: Normalise = by_itself) -> Tensor:
        """From there to pixels: all that looks at a neighbourhood only, but norms."""
        x = cast(Level, self.up[-1]).upsample(x)
        for level in reversed(list(self.up)[:-1]):
            x = level(x, normalise)
        return self.conv_out(silu(normalise(self.norm_out, x)))


class Level(nn.Module):
    """Residual blocks at one resolution, and the step to the next resolution."""

    def __init__(
        self, block: nn.ModuleList, *, downsample: nn.Module | None = None, upsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.block = block
        self.downsample = downsample or nn.Identity()
        self.upsample = upsample or nn.Identity()

    def forward(self, x: Tensor, normalise: Normalise = by_itself) -> Tensor:
        return self.upsample(self.downsample(self.at_its_resolution(x, normalise)))

    def at_its_resolution(self, x: Tensor, normalise: Normalise = by_itself) -> Tensor:
        for block in self.block:
            x = block(x, normalise)
        return x


class Middle(nn.Module):
    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, norm_groups)
        self.attn_1 = AttentionBlock(channels, norm_groups)
        self.block_2 = ResnetBlock(channels, channels, norm_groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class ResnetBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(norm_groups, channels, eps=1e-6)
        self.conv1 = Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(norm_groups, out_channels, eps=1e-6)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        if channels != out_channels:
            self.nin_shortcut = Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, normalise: Normalise = by_itself) -> Tensor:
        h = self.conv1(silu(normalise(self.norm1, x)))
        h = self.conv2(silu(normalise(self.norm2, h)))
        return h + (x if x.shape[1] == h.shape[1] else self.nin_shortcut(x))


class AttentionBlock(nn.Module):
    """Single-head attention over the pixels of a feature map."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(norm_groups, channels, eps=1e-6)
        self.q = Conv2d(channels, channels, 1)
        self.k = Conv2d(channels, channels, 1)
        self.v = Conv2d(channels, channels, 1)
        self.proj_out = Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (conv(normed).flatten(2).transpose(1, 2)[:, None] for conv in (self.q, self.k, self.v))
        attended = attention(q, k, v, AttentionPlace("first_stage_model.mid", is_cross=False))  # [B, 1, N, C]
        return x + self.proj_out(attended[:, 0].transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # padded on the right and below only, as the autoencoder was trained


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def decode_sliced(autoencoder: Autoencoder, latents: Tensor) -> Tensor:
    """Decode latents [B, Z, h, w] one picture at a time, so that the memory does not grow with the batch."""
    return torch.cat([autoencoder.decode(latent) for latent in latents.split(1)])
