"""Multistep sampling of latent consistency models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.process import Denoise, Process


def lcm(denoise: Denoise, x: Tensor, sigmas: Sequence[float], process: Process, noise: NoiseSource) -> Tensor:
    """Jump to clean data and add fresh noise of the next level (Luo et al. 2023, algorithm 3).

    For networks distilled to answer with the end of the ODE. Their boundary scalings c_skip and c_out differ from 0
    and 1 by less than 1e-4 for timesteps from 5 on, and are left out.
    """
    for sigma, sigma_next in pairwise(sigmas):
        x = process.alpha(sigma_next) * denoise(x, sigma)
        if sigma_next > 0:
            x = x + sigma_next * noise()
    return x
