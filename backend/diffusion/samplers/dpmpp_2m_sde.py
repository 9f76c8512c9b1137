"""SDE-DPM-Solver++(2M)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.process import Denoise, Process, half_log_snr


def dpmpp_2m_sde(denoise: Denoise, x: Tensor, sigmas: Sequence[float], process: Process, noise: NoiseSource) -> Tensor:
    """Second-order multistep on the reverse SDE (Lu et al. 2022, DPM-Solver++, appendix B, midpoint form).

    The noise is a fixed Brownian path's, so that more steps refine the same picture.
    """
    x0_before: Tensor | None = None
    h_before = 0.0
    for sigma, sigma_next in pairwise(sigmas):
        x0 = denoise(x, sigma)
        h = half_log_snr(process, sigma_next) - half_log_snr(process, sigma)
        extrapolated = x0
        if x0_before is not None and sigma_next > 0:
            extrapolated = x0 + h / (2 * h_before) * (x0 - x0_before)
        x = sigma_next / sigma * math.exp(-h) * x - process.alpha(sigma_next) * math.expm1(-2 * h) * extrapolated
        if sigma_next > 0:
            x = x + sigma_next * math.sqrt(-math.expm1(-2 * h)) * noise.between(sigma, sigma_next)
        x0_before, h_before = x0, h
    return x
