"""Euler's method on the probability flow ODE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.process import Denoise, Process


def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float], process: Process, noise: NoiseSource) -> Tensor:
    """Follow dx = x0 dalpha + noise dsigma in straight lines (Karras et al. 2022, algorithm 1 without churn).

    Data and noise are mixed anew instead of adding the change to x: that is the same where alpha is linear in sigma,
    and does not cancel digits when sigma is in the thousands (zero-terminal-SNR models).
    """
    for sigma, sigma_next in pairwise(sigmas):
        x0 = denoise(x, sigma)
        predicted_noise = (x - process.alpha(sigma) * x0) / sigma
        x = process.alpha(sigma_next) * x0 + sigma_next * predicted_noise
    return x
