"""The noise levels of rectified flows, and how far they are shifted towards noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

_TIMESTEPS = 1000  # networks are told 1000 * sigma


@dataclass(frozen=True)
class FlowLevels:
    """Sigmas from 0 (data) to 1 (noise), where a shift s moves u to s * u / (1 + (s - 1) * u) (Esser et al. 2024, 23).

    Large pictures hide less of themselves under the same noise, so that their levels are shifted up (s > 1).
    num_levels: 1000 for SD3 and 10,000 for FLUX in ComfyUI. Level number i is the shifted u = (i + 1) / num_levels.
    """

    shift: float = 1.0
    num_levels: int = 1000

    @property
    def sigma_min(self) -> float:
        return self._shifted(1 / self.num_levels)

    @property
    def sigma_max(self) -> float:
        return 1.0

    @property
    def last_timestep(self) -> float:
        return float(_TIMESTEPS)

    @property
    def lowest_index(self) -> float:
        """The number of u = sigma_min, which is shifted already: the code of SD3's authors shifts that end twice.

        diffusers and ComfyUI have it from there; 0 would be the end without this.
        """
        return self.sigma_min * self.num_levels - 1

    def level(self, index: float) -> float:
        """The shifted (index + 1) / num_levels; -1 is clean data."""
        return self._shifted(min(max((index + 1) / self.num_levels, 0.0), 1.0))

    def sigma(self, timestep: float) -> float:
        return min(max(timestep / _TIMESTEPS, 0.0), 1.0)

    def timestep(self, sigma: float) -> float:
        return _TIMESTEPS * min(max(sigma, 0.0), 1.0)

    def _shifted(self, u: float) -> float:
        return self.shift * u / (1 + (self.shift - 1) * u)


def flux_shift(width: int, height: int) -> float:
    """The shift of FLUX.1 [dev] for a picture of this size in pixels: exp(mu), mu linear in the number of image tokens.

    mu is 0.5 for 256 tokens (256 x 256 pixels) and 1.15 for 4096 (1024 x 1024), and goes on in a line beyond them.
    """
    tokens = (width // 16) * (height // 16)
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    return math.exp(mu)
