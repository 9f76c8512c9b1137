"""Pictures as the autoencoder has them, and as files do."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""[H, W, 3]"""


def pixels_of(image: Tensor) -> Pixels:
    """Of a picture [3, H, W], about -1..1: 8 bits by truncation, as A1111 has it."""
    scaled = (image.float().cpu().clamp(-1, 1) + 1) * 127.5
    return scaled.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def image_tensor(picture: Image.Image | Pixels) -> Tensor:
    """An RGB picture as [1, 3, H, W] float32 in -1..1."""
    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8))
    return (pixels.permute(2, 0, 1)[None].float() / 127.5 - 1).contiguous()


def mask_tensor(mask: Image.Image) -> Tensor:
    """A grey picture as [1, 1, H, W] float32 in 0..1."""
    return torch.from_numpy(np.array(mask, dtype=np.uint8))[None, None].float() / 255
