"""Rotary position embedding (Su et al. 2021) of tokens with several coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Shapes: B batch, H heads, N tokens, D head width.


def rotations(coordinates: Tensor, axes: Sequence[int], theta: float) -> Tensor:
    """Rotations [N, D / 2], complex64, of tokens at coordinates [N, len(axes)].

    axes: how many of the D numbers of a head turn with each coordinate. They turn in pairs, by angles that fall from
    the coordinate itself to 1 / theta of it.
    """
    angles = [
        coordinates[:, index, None].double() * theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        for index, dim in enumerate(axes)
    ]
    return torch.polar(torch.ones(()), torch.cat(angles, dim=-1).float())


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn the pairs (0, 1), (2, 3) ... of the numbers of each head of x [B, N, H, D]."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation[:, None]).flatten(-2).to(x.dtype)
