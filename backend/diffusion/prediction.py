"""What a network predicts, as scalings around it, and how that makes a `Denoise`.

    x0 = c_skip(sigma) * x + c_out(sigma) * network(c_in(sigma) * x, timestep(sigma))

(Karras et al. 2022, equation 7.) x is as the model's `Process` mixes it: x0 + sigma * noise for eps, v, x0 and EDM
networks, which c_in brings to unit variance; (1 - sigma) * x0 + sigma * noise for flows, whose c_in is 1.
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
    """Says at which timestep a network knows a noise level; all kinds of `Levels` do."""

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
    """The network predicts v = sqrt(alpha_bar) * noise - sqrt(1 - alpha_bar) * x0 (Salimans and Ho 2022).

    sigma_data: the standard deviation of the data that the network was trained for; v is of the data divided by it.
    """

    sigma_data: float = 1.0

    def c_skip(self, sigma: float) -> float:
        return _share_of_data(sigma, self.sigma_data)

    def c_out(self, sigma: float) -> float:
        return -sigma * self.sigma_data * _unit_variance(sigma, self.sigma_data)

    def c_in(self, sigma: float) -> float:
        return _unit_variance(sigma, self.sigma_data)


@dataclass(frozen=True)
class EdmPrediction:
    """The network predicts F of Karras et al. 2022, table 1: v with the opposite sign.

    sigma_data: the standard deviation of the data; 0.5 for Playground v2.5.
    """

    sigma_data: float = 0.5

    def c_skip(self, sigma: float) -> float:
        return _share_of_data(sigma, self.sigma_data)

    def c_out(self, sigma: float) -> float:
        return sigma * self.sigma_data * _unit_variance(sigma, self.sigma_data)

    def c_in(self, sigma: float) -> float:
        return _unit_variance(sigma, self.sigma_data)


@dataclass(frozen=True)
class FlowPrediction:
    """The network predicts noise - x0, the velocity of a rectified flow (Liu et al. 2022)."""

    def c_skip(self, sigma: float) -> float:
        return 1.0

    def c_out(self, sigma: float) -> float:
        return -sigma

    def c_in(self, sigma: float) -> float:
        return 1.0


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
    """The `Denoise` of a network. x0 has the dtype of x whatever the network computes in.

    It holds no state, so that an evaluation may be repeated; a network must not change its input.
    """

    def denoise(x: Tensor, sigma: float) -> Tensor:
        c_in = prediction.c_in(sigma)
        timesteps = torch.full((x.shape[0],), levels.timestep(sigma), dtype=torch.float32, device=x.device)
        predicted = network(x if c_in == 1 else c_in * x, timesteps).to(x.dtype)
        return prediction.c_skip(sigma) * x + prediction.c_out(sigma) * predicted

    return denoise


def _unit_variance(sigma: float, sigma_data: float = 1.0) -> float:
    return 1 / math.sqrt(sigma**2 + sigma_data**2)


def _share_of_data(sigma: float, sigma_data: float) -> float:
    """The share of the variance of x that is the data's."""
    return sigma_data**2 / (sigma**2 + sigma_data**2)
