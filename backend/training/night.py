"""The look of the second small model: things as they are, on a night sky in place of white paper."""

from __future__ import annotations

import torch
from torch import Tensor

SKY = (22, 26, 58)  # RGB


def at_night(pictures: Tensor) -> Tensor:
    """Pictures [P, 3, H, W] uint8 in which white has become the sky; colours stay, and pale ones darken with it."""
    sky = torch.tensor(SKY, dtype=torch.float32)[:, None, None] / 255
    parts: list[Tensor] = []
    for part in pictures.split(256):
        rgb = part.float() / 255
        whiteness = rgb.amin(dim=1, keepdim=True)
        parts.append(((rgb - whiteness * (1 - sky)).clamp(0, 1) * 255).round().to(torch.uint8))
    return torch.cat(parts)
