"""SwinIR, an upscaler that attends within shifted windows, with parameters named as in its checkpoints.

Liang et al. 2021, "SwinIR: Image Restoration Using Swin Transformer" (arXiv 2108.10257).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.layers import Conv2d, LayerNorm, Linear, widened

# Shapes: B batch, H x W image size, C channels, w side of a window, N = w * w pixels of one, G windows of a batch.

_MEAN = (0.4488, 0.4371, 0.4040)  # of the RGB pictures that it was trained on, taken off before and added after
_FEATURES = 64  # channels behind the transformer in all published files that enlarge pictures by several layers
_HIDDEN = -100.0  # added to the score of pixels that do not lie beside each other


class Enlarging(str, Enum):
    """How the last layers enlarge a picture."""

    SHUFFLE = "shuffle"  # channels become pixels, step by step
    DIRECT = "direct"  # at once, in the light network
    NEAREST = "nearest"  # every pixel is repeated, and a convolution follows
    NONE = "none"  # what is added to a picture of the same size: noise or JPEG is removed


@dataclass(frozen=True, kw_only=True)
class SwinIRConfig:
    """What the shapes of a checkpoint say.

    depths: blocks of each layer. has_bottleneck: three narrower convolutions behind each layer in place of one.
    steps: factors by which the picture grows, one after the other. range: that the numbers of a picture are spread to.
    """

    channels: int
    heads: int
    window: int
    hidden: int
    depths: tuple[int, ...]
    enlarging: Enlarging
    steps: tuple[int, ...]
    colours: int = 3
    has_bottleneck: bool = False
    range: float = 1.0

    @property
    def scale(self) -> int:
        """Pixels of the result for one of the picture, along a side."""
        product = 1
        for step in self.steps:
            product *= step
        return product


class SwinIR(nn.Module):
    def __init__(self, config: SwinIRConfig) -> None:
        super().__init__()
        self.config = config
        width, colours = config.channels, config.colours
        self.conv_first = Conv2d(colours, width, 3, padding=1)
        self.patch_embed = _Normed(width)
        self.layers = nn.ModuleList(ResidualGroup(config, depth) for depth in config.depths)
        self.norm = LayerNorm(width)
        self.conv_after_body = _convolution(config)
        if config.enlarging in (Enlarging.SHUFFLE, Enlarging.NEAREST):
            self.conv_before_upsample = nn.Sequential(Conv2d(width, _FEATURES, 3, padding=1), nn.LeakyReLU(0.01))
        match config.enlarging:
            case Enlarging.SHUFFLE:
                self.upsample = nn.Sequential(*_shuffles(config.steps))
                self.conv_last = Conv2d(_FEATURES, colours, 3, padding=1)
            case Enlarging.DIRECT:
                step = config.scale
                self.upsample = nn.Sequential(Conv2d(width, step**2 * colours, 3, padding=1), nn.PixelShuffle(step))
            case Enlarging.NEAREST:
                for number in range(1, len(config.steps) + 1):
                    self.add_module(f"conv_up{number}", Conv2d(_FEATURES, _FEATURES, 3, padding=1))
                self.conv_hr = Conv2d(_FEATURES, _FEATURES, 3, padding=1)
                self.conv_last = Conv2d(_FEATURES, colours, 3, padding=1)
            case Enlarging.NONE:
                self.conv_last = Conv2d(width, colours, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] in 0..1 -> [B, C, scale * H, scale * W], about 0..1. Sides are multiples of the window."""
        mean = image.new_tensor(_MEAN).view(1, 3, 1, 1) if self.config.colours == 3 else 0.0
        given = (image - mean) * self.config.range
        first = self.conv_first(given)
        x = first + self.conv_after_body(self._body(first))
        made = given + self.conv_last(x) if self.config.enlarging is Enlarging.NONE else self._enlarged(x)
        return made / self.config.range + mean

    def _body(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x.permute(0, 2, 3, 1))  # [B, H, W, C]
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).permute(0, 3, 1, 2)

    def _enlarged(self, x: Tensor) -> Tensor:
        if self.config.enlarging is Enlarging.DIRECT:
            return self.upsample(x)
        x = self.conv_before_upsample(x)
        if self.config.enlarging is Enlarging.SHUFFLE:
            return self.conv_last(self.upsample(x))
        for number in range(1, len(self.config.steps) + 1):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = F.leaky_relu(self.get_submodule(f"conv_up{number}")(x), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))


class _Normed(nn.Module):
    """The norm in front of the first layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class ResidualGroup(nn.Module):
    """Blocks whose windows lie in two grids by turns, and a convolution."""

    def __init__(self, config: SwinIRConfig, depth: int) -> None:
        super().__init__()
        self.residual_group = nn.Module()
        blocks = (Block(config, shift=config.window // 2 * (number % 2)) for number in range(depth))
        self.residual_group.add_module("blocks", nn.ModuleList(blocks))
        self.conv = _convolution(config)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C]"""
        inner = x
        for block in self.residual_group.get_submodule("blocks").children():
            inner = block(inner)
        return x + self.conv(inner.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Block(nn.Module):
    """shift: of its windows, to the right and down, so that what lies in two windows meets in every other block."""

    def __init__(self, config: SwinIRConfig, *, shift: int) -> None:
        super().__init__()
        self._shift = shift
        self._window = config.window
        self.norm1 = LayerNorm(config.channels)
        self.attn = WindowAttention(config)
        self.norm2 = LayerNorm(config.channels)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C]"""
        height, width = x.shape[1:3]
        shifted = torch.roll(self.norm1(x), (-self._shift, -self._shift), (1, 2)) if self._shift else self.norm1(x)
        hidden = _hidden(height, width, self._window, self._shift, x) if self._shift else None
        attended = _whole(self.attn(_windows(shifted, self._window), hidden), height, width, self._window)
        x = x + (torch.roll(attended, (self._shift, self._shift), (1, 2)) if self._shift else attended)
        return x + self.mlp(self.norm2(x))


class WindowAttention(nn.Module):
    """Every pixel attends to those of its window, the nearer the more as it has learnt."""

    def __init__(self, config: SwinIRConfig) -> None:
        super().__init__()
        self._heads = config.heads
        self._window = config.window
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * config.window - 1) ** 2, config.heads))
        self.qkv = Linear(config.channels, 3 * config.channels)
        self.proj = Linear(config.channels, config.channels)

    def forward(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """[G, N, C]. hidden: [G of one picture, N, N], what is added to the scores."""
        windows, pixels, width = x.shape
        q, k, v = self.qkv(x).view(windows, pixels, 3, self._heads, -1).permute(2, 0, 3, 1, 4)  # [G, heads, N, D]
        bias = self._bias(x)
        if hidden is not None:
            bias = (bias + hidden[:, None]).repeat(windows // len(hidden), 1, 1, 1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(attended.transpose(1, 2).reshape(windows, pixels, width))

    def _bias(self, x: Tensor) -> Tensor:
        """[1, heads, N, N], by how far right and down one pixel lies from another."""
        side = torch.arange(self._window, device=x.device)
        rows, columns = side.repeat_interleave(self._window), side.repeat(self._window)
        down, right = rows[:, None] - rows[None], columns[:, None] - columns[None]
        numbers = (down + self._window - 1) * (2 * self._window - 1) + right + self._window - 1
        return widened(self.relative_position_bias_table, x)[numbers].permute(2, 0, 1)[None]


class Mlp(nn.Module):
    def __init__(self, config: SwinIRConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.channels, config.hidden)
        self.fc2 = Linear(config.hidden, config.channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def _convolution(config: SwinIRConfig) -> nn.Module:
    width = config.channels
    if not config.has_bottleneck:
        return Conv2d(width, width, 3, padding=1)
    return nn.Sequential(
        Conv2d(width, width // 4, 3, padding=1),
        nn.LeakyReLU(0.2),
        Conv2d(width // 4, width // 4, 1),
        nn.LeakyReLU(0.2),
        Conv2d(width // 4, width, 3, padding=1),
    )


def _shuffles(steps: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for step in steps:
        layers += [Conv2d(_FEATURES, step**2 * _FEATURES, 3, padding=1), nn.PixelShuffle(step)]
    return layers


def _windows(x: Tensor, side: int) -> Tensor:
    """[B, H, W, C] -> [G, N, C]"""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // side, side, width // side, side, channels)
    return x.transpose(2, 3).reshape(-1, side * side, channels)


def _whole(windows: Tensor, height: int, width: int, side: int) -> Tensor:
    """The other way round."""
    x = windows.view(-1, height // side, width // side, side, side, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])


def _hidden(height: int, width: int, side: int, shift: int, x: Tensor) -> Tensor:
    """[G, N, N]: what hides those pixels of a window from one another that shifting brought there from the far edge."""
    rows, columns = (_regions(length, side, shift, x) for length in (height, width))
    regions = _windows((3 * rows[:, None] + columns[None])[None, :, :, None], side)[..., 0]  # [G, N]
    return (regions[:, :, None] != regions[:, None]).to(x.dtype) * _HIDDEN


def _regions(length: int, side: int, shift: int, x: Tensor) -> Tensor:
    """0 for the windows that are whole, 1 and 2 for both parts of the last one."""
    places = torch.arange(length, device=x.device)
    return (places >= length - side).long() + (places >= length - shift).long()
