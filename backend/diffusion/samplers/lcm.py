"""Multistep sampling of latent consistency models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.process import Denoise, Process


def lcm(denoise: Denoise, x: Tensor, sigmas: Sequence[float], process: Process, noise: NoiseSource) -> Tensor:
    """Jump to clean data and add fresh noise of the next level (Luo et al. 2023, algorithm 3).

    For networks distilled to answer with the end of the ODE. Their boundary condition is a `LcmBoundary` prediction;
    it changes x0 by less than a ten thousandth for timesteps from 5 on.
    """
    for sigma, sigma_next in pairwise(sigmas):
        x = process.alpha(sigma_next) * denoise(x, sigma)
        if sigma_next > 0:
            x = x + sigma_next * noise()
    return x
