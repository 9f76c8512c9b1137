"""DPM-Solver++(2M)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.process import Denoise, Process, half_log_snr


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Sequence[float], process: Process, noise: NoiseSource) -> Tensor:
    """Second-order multistep over the half log-SNR (Lu et al. 2022, DPM-Solver++, algorithm 2).

    The first step and a step to 0 are of first order, for want of history and of a finite interval.
    """
    x0_before: Tensor | None = None
    h_before = 0.0
    for sigma, sigma_next in pairwise(sigmas):
        x0 = denoise(x, sigma)
        h = half_log_snr(process, sigma_next) - half_log_snr(process, sigma)
        extrapolated = x0
        if x0_before is not None and sigma_next > 0:
            extrapolated = x0 + h / (2 * h_before) * (x0 - x0_before)
        x = sigma_next / sigma * x - process.alpha(sigma_next) * math.expm1(-h) * extrapolated
        x0_before, h_before = x0, h
    return x
