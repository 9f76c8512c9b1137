"""The continuous noise levels of models that were trained as Karras et al. 2022 have it ("EDM")."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class EdmLevels:
    """Any sigma from sigma_min to sigma_max, told to the network as ln(sigma) / 4.

    The defaults are Playground v2.5's; CosXL has sigmas from 0.002 to 120. Level numbers are even in log sigma.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    num_levels: int = 1000

    @property
    def last_timestep(self) -> float:
        return self.timestep(self.sigma_max)

    @property
    def lowest_index(self) -> float:
        return 0.0

    def level(self, index: float) -> float:
        share = index / (self.num_levels - 1)
        if share <= 0:
            return self.sigma_min
        if share >= 1:
            return self.sigma_max
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** share

    def sigma(self, timestep: float) -> float:
        return self._clamped(math.exp(4 * timestep))

    def timestep(self, sigma: float) -> float:
        return math.log(self._clamped(sigma)) / 4

    def _clamped(self, sigma: float) -> float:
        return min(max(sigma, self.sigma_min), self.sigma_max)
