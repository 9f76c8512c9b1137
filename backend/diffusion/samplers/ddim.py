"""Denoising diffusion implicit models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.process import Denoise, Process


def ddim(denoise: Denoise, x: Tensor, sigmas: Sequence[float], process: Process, noise: NoiseSource) -> Tensor:
    """Mix the predicted data and the predicted noise anew for the next level (Song et al. 2021, equation 12, eta 0).

    On levels where alpha is linear in sigma this is Euler's method.
    """
    for sigma, sigma_next in pairwise(sigmas):
        x0 = denoise(x, sigma)
        predicted_noise = (x - process.alpha(sigma) * x0) / sigma
        x = process.alpha(sigma_next) * x0 + sigma_next * predicted_noise
    return x
