"""RRDBNet, the network of ESRGAN and RealESRGAN upscalers, with parameters named as in RealESRGAN's checkpoints.

Wang et al. 2018, "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks" (arXiv 1809.00219): residual
blocks in residual blocks, of densely connected convolutions without normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.layers import Conv2d

# Shapes: B batch, C channels, H x W image size.

_RESIDUAL = 0.2  # how much of what a block adds is added
_SLOPE = 0.2  # of the leaky ReLU below zero


@dataclass(frozen=True, kw_only=True)
class RRDBNetConfig:
    """What the shapes of a checkpoint say.

    growth: channels that each convolution of a dense block adds. unshuffle: pixels along a side that become channels
    before the first layer, in networks that enlarge by less than 4. doublings: how often the size is doubled.
    """

    channels: int = 64
    growth: int = 32
    num_blocks: int = 23
    in_channels: int = 3
    out_channels: int = 3
    doublings: int = 2
    unshuffle: int = 1

    @property
    def scale(self) -> int:
        """Pixels of the result for one of the picture, along a side."""
        return 2**self.doublings // self.unshuffle


class RRDBNet(nn.Module):
    def __init__(self, config: RRDBNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.conv_first = Conv2d(config.in_channels * config.unshuffle**2, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width, config.growth) for _ in range(config.num_blocks)))
        self.conv_body = Conv2d(width, width, 3, padding=1)
        for number in range(1, config.doublings + 1):
            self.add_module(f"conv_up{number}", Conv2d(width, width, 3, padding=1))
        self.conv_hr = Conv2d(width, width, 3, padding=1)
        self.conv_last = Conv2d(width, config.out_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] in 0..1 -> [B, C, scale * H, scale * W], about 0..1. Sides are multiples of `unshuffle`."""
        x = self.conv_first(F.pixel_unshuffle(image, self.config.unshuffle))
        x = x + self.conv_body(self.body(x))
        for number in range(1, self.config.doublings + 1):
            x = _bent(self.get_submodule(f"conv_up{number}")(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return self.conv_last(_bent(self.conv_hr(x)))


class ResidualBlock(nn.Module):
    """Three dense blocks, of whose sum a part is added."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(channels, growth)
        self.rdb2 = DenseBlock(channels, growth)
        self.rdb3 = DenseBlock(channels, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=_RESIDUAL)


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it gave."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        for number in range(1, 6):
            width = channels + (number - 1) * growth
            self.add_module(f"conv{number}", Conv2d(width, growth if number < 5 else channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for number in range(1, 5):
            seen = torch.cat((seen, _bent(self.get_submodule(f"conv{number}")(seen))), dim=1)
        return torch.add(x, self.get_submodule("conv5")(seen), alpha=_RESIDUAL)


def _bent(x: Tensor) -> Tensor:
    """Leaky ReLU of a tensor that nobody else reads."""
    return F.leaky_relu(x, _SLOPE, inplace=not (torch.is_grad_enabled() and x.requires_grad))
