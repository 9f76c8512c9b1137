"""Keeping a part of the latents: wrappers Denoise -> Denoise. Masks are [1, 1, h, w] in 0..1, where 1 may change."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from backend.diffusion.process import Denoise, Process


def blended(kept: Tensor, changed: Tensor, mask: Tensor) -> Tensor:
    """`changed` where the mask is 1, `kept` where it is 0."""
    return kept + mask * (changed - kept)


def masked(denoise: Denoise, kept: Tensor, mask: Tensor) -> Denoise:
    """Every x0 has the latents `kept` [B or 1, C, h, w] outside of the mask, after guidance, as A1111 has it."""
    return lambda x, sigma: blended(kept, denoise(x, sigma), mask)


def softly_masked(
    denoise: Denoise, process: Process, kept: Tensor, mask: Tensor, noise: Tensor, sigmas: Sequence[float]
) -> Denoise:
    """Each pixel is kept until the share of the run that is left falls to the mask's value there.

    Differential diffusion (Levin and Fried 2023): grey changes late, so only its small shapes change. Until then x is
    `kept` at the noise level, with the run's first noise.
    sigmas: of the run, descending.
    """

    def denoise_free(x: Tensor, sigma: float) -> Tensor:
        is_free = (mask >= share_left(sigma, sigmas)) & (mask > 0)
        x0 = denoise(torch.where(is_free, x, process.alpha(sigma) * kept + sigma * noise), sigma)
        return torch.where(is_free, x0, kept)

    return denoise_free


def share_left(sigma: float, sigmas: Sequence[float]) -> float:
    """Of a run that is at a noise level: 1 at the first step, 1 / steps at the last; between them along a line."""
    steps = len(sigmas) - 1
    for step, (begin, end) in enumerate(pairwise(sigmas)):
        if sigma > end:
            return 1 - (step + max(0.0, (begin - sigma) / (begin - end))) / steps
    return 0.0
