"""How noise is mixed into data, and the one function that every sampler calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

Denoise: TypeAlias = Callable[[Tensor, float], Tensor]
"""(x, sigma) -> x0: the clean latents expected behind x, which is x = alpha(sigma) * x0 + sigma * noise.

x and x0: float32 [B, C, H, W]. Guidance, previews, cancellation and masks are wrappers Denoise -> Denoise.
"""


class Process(Protocol):
    """The share of the data at a noise level: x = alpha(sigma) * x0 + sigma * noise."""

    def alpha(self, sigma: float) -> float: ...


@dataclass(frozen=True)
class VarianceExploding:
    """Data keep their scale and noise is added (eps, v and EDM models; Karras et al. 2022, section 3)."""

    def alpha(self, sigma: float) -> float:
        return 1.0


@dataclass(frozen=True)
class RectifiedFlow:
    """Straight lines from data (sigma 0) to noise (sigma 1) (Liu et al. 2022)."""

    def alpha(self, sigma: float) -> float:
        return 1.0 - sigma


def start(process: Process, noise: Tensor, sigma: float, sigma_max: float) -> Tensor:
    """What a picture from text alone begins with: alpha * 0 + sigma * noise, at sigma_max of the model.

    A run that begins lower (DMD2 in one step) would miss the spread of the data, so noise of unit variance takes their
    place. At sigma_max the data are lost in the noise. diffusers adds them there as well, 0.2% for Stable Diffusion
    and 0.008% for EDM; the paper of Karras et al. 2022 and A1111 do not.
    """
    is_noisiest = sigma > sigma_max or math.isclose(sigma, sigma_max, rel_tol=1e-3)
    return (sigma if is_noisiest else math.hypot(process.alpha(sigma), sigma)) * noise


def half_log_snr(process: Process, sigma: float) -> float:
    """lambda = log(alpha / sigma); infinite at both ends of a process."""
    alpha = process.alpha(sigma)
    if sigma == 0:
        return math.inf
    if alpha == 0:
        return -math.inf
    return math.log(alpha / sigma)
