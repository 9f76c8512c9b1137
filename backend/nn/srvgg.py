"""SRVGGNetCompact, RealESRGAN's small upscaler: a stack of convolutions, and the pixels of the result as channels.

Parameters are named as in its checkpoints (Wang et al. 2021, "Real-ESRGAN", arXiv 2107.10833; the "compact" models).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.layers import Conv2d, widened


@dataclass(frozen=True, kw_only=True)
class SRVGGConfig:
    """What the shapes of a checkpoint say. num_convs: between the first and the last."""

    channels: int = 64
    num_convs: int = 16
    scale: int = 4
    in_channels: int = 3


class SRVGG(nn.Module):
    def __init__(self, config: SRVGGConfig) -> None:
        super().__init__()
        self.config = config
        width, colours = config.channels, config.in_channels
        layers: list[nn.Module] = [Conv2d(colours, width, 3, padding=1), PReLU(width)]
        for _ in range(config.num_convs):
            layers += [Conv2d(width, width, 3, padding=1), PReLU(width)]
        layers.append(Conv2d(width, colours * config.scale**2, 3, padding=1))
        self.body = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] in 0..1 -> [B, C, scale * H, scale * W], about 0..1: what is added to the enlarged pixels."""
        added = F.pixel_shuffle(self.body(image), self.config.scale)
        return added + F.interpolate(image, scale_factor=float(self.config.scale), mode="nearest")


class PReLU(nn.PReLU):
    """With weights that may be stored in a narrower type than the one that is computed with."""

    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, widened(self.weight, input))
