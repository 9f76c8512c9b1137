"""TAESD (Ollin Boer Bohan): a decoder of 1.2 million numbers that shows about what an autoencoder would.

Parameters are named as in the published files `taesd_decoder`: a sequence of layers, counted. There is one for the
latents of each autoencoder (TAESD, TAESDXL, TAESD3, TAEF1), which differ in the number of latent channels alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.layers import Conv2d

WIDTH = 64
_LARGEST = 3.0  # of a latent; what is beyond is bent back

# Shapes: B batch, Z latent channels, h x w latent size.


class TinyDecoder(nn.Sequential):
    def __init__(self, latent_channels: int) -> None:
        resolutions: list[nn.Module] = []
        for _ in range(3):
            resolutions += [*(_Block() for _ in range(3)), nn.Upsample(scale_factor=2)]
            resolutions += [Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]
        super().__init__(
            _Bent(),
            Conv2d(latent_channels, WIDTH, 3, padding=1),
            nn.ReLU(),
            *resolutions,
            _Block(),
            Conv2d(WIDTH, 3, 3, padding=1),
        )

    def forward(self, input: Tensor) -> Tensor:
        """Colours [B, 3, 8 * h, 8 * w], about 0..1, of diffusion latents [B, Z, h, w]."""
        return super().forward(input)


class _Bent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / _LARGEST) * _LARGEST


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            Conv2d(WIDTH, WIDTH, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)
