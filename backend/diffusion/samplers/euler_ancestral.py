"""Euler's method with fresh noise at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.process import Denoise, Process


def euler_ancestral(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], process: Process, noise: NoiseSource
) -> Tensor:
    """Replace part of the old noise by fresh noise, as much as the exact posterior has (Ho et al. 2020, equation 7)."""
    for sigma, sigma_next in pairwise(sigmas):
        alpha, alpha_next = process.alpha(sigma), process.alpha(sigma_next)
        x0 = denoise(x, sigma)
        predicted_noise = (x - alpha * x0) / sigma
        kept = (sigma_next * alpha) / (sigma * alpha_next)
        x = alpha_next * x0 + sigma_next * kept * predicted_noise
        if sigma_next > 0:
            x = x + sigma_next * math.sqrt(1 - kept**2) * noise()
    return x
