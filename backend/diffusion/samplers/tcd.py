"""Trajectory consistency distillation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.process import Denoise, Process


def tcd(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    process: Process,
    noise: NoiseSource,
    *,
    gamma: float = 0.3,
) -> Tensor:
    """Jump past the next level, to (1 - gamma) of its timestep, and add noise back (Zheng et al. 2024, algorithm 4).

    gamma, 0..1: 0 is Euler's method and 1 nearly `lcm`; more steps want more of it. Timesteps are those of Stable
    Diffusion at the same signal-to-noise ratio, since that is what such networks were distilled from.
    """
    levels = NoiseLevels.scaled_linear()
    for sigma, sigma_next in pairwise(sigmas):
        x0 = denoise(x, sigma)
        alpha_next = process.alpha(sigma_next)
        predicted_noise = (x - process.alpha(sigma) * x0) / sigma
        x = alpha_next * x0
        if sigma_next > 0:
            kept = _kept_share(sigma_next / alpha_next, gamma, levels)
            x = x + sigma_next * (kept * predicted_noise + math.sqrt(1 - kept**2) * noise())
    return x


def _kept_share(ratio: float, gamma: float, levels: NoiseLevels) -> float:
    """The share of predicted noise at the next level, where noise / data is `ratio`."""
    timestep = math.floor((1 - gamma) * levels.timestep(ratio) + 1e-6)  # trained ones are whole
    return min(levels.sigma(timestep) / ratio, 1.0)
