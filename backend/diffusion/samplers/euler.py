"""Euler's method on the probability flow ODE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.process import Denoise, Process


def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float], process: Process, noise: NoiseSource) -> Tensor:
    """Follow dx = x0 dalpha + noise dsigma in straight lines (Karras et al. 2022, algorithm 1 without churn)."""
    for sigma, sigma_next in pairwise(sigmas):
        alpha, alpha_next = process.alpha(sigma), process.alpha(sigma_next)
        x0 = denoise(x, sigma)
        predicted_noise = (x - alpha * x0) / sigma
        x = x + (alpha_next - alpha) * x0 + (sigma_next - sigma) * predicted_noise
    return x
