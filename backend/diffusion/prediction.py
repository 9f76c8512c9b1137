"""What a network predicts, as scalings around it, and how that makes a `Denoise`.

    x0 = c_skip(sigma) * x + c_out(sigma) * network(c_in(sigma) * x, timestep(sigma))

(Karras et al. 2022, equation 7). All three are for data of scale 1 plus noise: x = x0 + sigma * noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from backend.diffusion.process import Denoise

Network: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(scaled x [B, C, H, W] float32, timesteps [B] float32) -> prediction [B, C, H, W] of any float dtype."""


class Timesteps(Protocol):
    """Says at which timestep a network knows a noise level; `NoiseLevels` for discrete models."""

    def timestep(self, sigma: float) -> float: ...


class Prediction(Protocol):
    def c_skip(self, sigma: float) -> float: ...

    def c_out(self, sigma: float) -> float: ...

    def c_in(self, sigma: float) -> float: ...


@dataclass(frozen=True)
class EpsPrediction:
    """The network predicts the noise (Ho et al. 2020)."""

    def c_skip(self, sigma: float) -> float:
        return 1.0

    def c_out(self, sigma: float) -> float:
        return -sigma

    def c_in(self, sigma: float) -> float:
        return _unit_variance(sigma)


@dataclass(frozen=True)
class VPrediction:
    """The network predicts v = sqrt(alpha_bar) * noise - sqrt(1 - alpha_bar) * x0 (Salimans and Ho 2022)."""

    def c_skip(self, sigma: float) -> float:
        return 1 / (sigma**2 + 1)

    def c_out(self, sigma: float) -> float:
        return -sigma * _unit_variance(sigma)

    def c_in(self, sigma: float) -> float:
        return _unit_variance(sigma)


@dataclass(frozen=True)
class X0Prediction:
    """The network predicts the clean data."""

    def c_skip(self, sigma: float) -> float:
        return 0.0

    def c_out(self, sigma: float) -> float:
        return 1.0

    def c_in(self, sigma: float) -> float:
        return _unit_variance(sigma)


def denoiser(network: Network, prediction: Prediction, levels: Timesteps) -> Denoise:
    """The `Denoise` of a network. x0 has the dtype of x whatever the network computes in."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        timesteps = torch.full((x.shape[0],), levels.timestep(sigma), dtype=torch.float32, device=x.device)
        predicted = network(prediction.c_in(sigma) * x, timesteps).to(x.dtype)
        return prediction.c_skip(sigma) * x + prediction.c_out(sigma) * predicted

    return denoise


def _unit_variance(sigma: float) -> float:
    return 1 / math.sqrt(sigma**2 + 1)
