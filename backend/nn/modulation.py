"""Adaptive layer norms (Peebles and Xie 2022, "adaLN"): what a diffusion transformer is told about the noise level.

Shifts, scales and gates depend on the timestep, the guidance and the pooled text alone, so those of a whole run can be
computed before its first step. Their layers are a third of the weights of such a network and next to none of its work.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.layers import Linear, SiLU
from backend.nn.unet import timestep_embedding

# Shapes: B batch, N tokens, D width, R rows of (timestep, guidance, pooled text).

ROWS = 64
NUMBER_WIDTH = 256


class Embedder(nn.Module):
    """Two layers from a vector [R, in_dim] to one of the width of the network; `mlp.0` and `mlp.2` in checkpoints."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Linear(in_dim, dim), SiLU(), Linear(dim, dim))

    def forward(self, vector: Tensor) -> Tensor:
        return self.mlp(vector)


def number_embedding(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Cosines and sines [R, 256] of numbers [R], such as timesteps in 0..1000: what an `Embedder` of them takes."""
    return timestep_embedding(numbers, NUMBER_WIDTH).to(dtype)


class FinalLayer(nn.Module):
    """The last norm and the projection to patches; the same in SD 3 and FLUX."""

    num_vectors = 2

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = Linear(dim, out_dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(dim, self.num_vectors * dim))

    def forward(self, x: Tensor, vectors: Tensor) -> Tensor:
        """x [B, N, D], vectors [B, 2, D]: shift and scale."""
        shift, scale = vectors[:, :, None].unbind(1)
        return self.linear(modulate(layer_norm(x), shift, scale))


def is_modulation(name: str) -> bool:
    """Whether this is the name of a layer that makes shifts, scales and gates (SD 3, FLUX)."""
    return name.endswith(("adaLN_modulation.1", "_mod.lin", ".modulation.lin"))


def modulation_of(network: nn.Module, activated: Tensor) -> Tensor:
    """What all such layers of a network make of an activated embedding [R, D], in the order of their names there."""
    parts = [layer(activated) for name, layer in network.named_modules() if is_modulation(name)]
    return torch.cat(parts, dim=-1)


def by_rows(compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """compute(*inputs) [R, W] for inputs [R, ...], in groups of always `ROWS` rows, the last one filled up with zeros.

    The order in which a matrix product is summed may depend on its number of rows. In this form the bits of a row do
    not depend on how many others are computed with it, that is, on the number of steps.
    """
    groups = zip(*(tensor.split(ROWS) for tensor in inputs), strict=True)
    return torch.cat([_filled_up(compute, *group) for group in groups])


def _filled_up(compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    num_rows = inputs[0].shape[0]
    filled = [torch.cat([tensor, tensor.new_zeros(ROWS - num_rows, *tensor.shape[1:])]) for tensor in inputs]
    return compute(*filled)[:num_rows]


def layer_norm(x: Tensor) -> Tensor:
    """Without weights of its own: modulation takes their place."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def modulate(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """normed [B, N, D], shift and scale [B, 1, D]."""
    return torch.addcmul(shift, normed, 1 + scale)


def gated(x: Tensor, gate: Tensor, change: Tensor) -> Tensor:
    """x + gate * change: x and change [B, N, D], gate [B, 1, D]."""
    return torch.addcmul(x, gate, change)
