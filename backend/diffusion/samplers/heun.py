"""Heun's method of second order on the probability flow ODE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.process import Denoise, Process


def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], process: Process, noise: NoiseSource) -> Tensor:
    """Average the slopes at both ends of a step (Karras et al. 2022, algorithm 1); a step to 0 is Euler's."""
    for sigma, sigma_next in pairwise(sigmas):
        alpha, alpha_next = process.alpha(sigma), process.alpha(sigma_next)
        x0 = denoise(x, sigma)
        predicted_noise = (x - alpha * x0) / sigma
        x_end = alpha_next * x0 + sigma_next * predicted_noise
        if sigma_next > 0:
            x0_end = denoise(x_end, sigma_next)
            noise_end = (x_end - alpha_next * x0_end) / sigma_next
            change = (alpha_next - alpha) * (x0_end - x0) + (sigma_next - sigma) * (noise_end - predicted_noise)
            x_end = x_end + change / 2
        x = x_end
    return x
