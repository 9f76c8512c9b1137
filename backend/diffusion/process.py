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
    """Data keep their scale and noise is added (eps and v models after Karras et al. 2022, section 3)."""

    def alpha(self, sigma: float) -> float:
        return 1.0


@dataclass(frozen=True)
class RectifiedFlow:
    """Straight lines from data (sigma 0) to noise (sigma 1) (Liu et al. 2022)."""

    def alpha(self, sigma: float) -> float:
        return 1.0 - sigma


def half_log_snr(process: Process, sigma: float) -> float:
    """lambda = log(alpha / sigma); infinite at both ends of a process."""
    alpha = process.alpha(sigma)
    if sigma == 0:
        return math.inf
    if alpha == 0:
        return -math.inf
    return math.log(alpha / sigma)
