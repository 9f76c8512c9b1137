"""The boundary condition of latent consistency models: at timestep 0 they return their input."""

from __future__ import annotations

import math
from dataclasses import dataclass

from backend.diffusion.prediction import Prediction, Timesteps

_SIGMA_DATA = 0.5
_TIMESTEP_SCALING = 10.0


@dataclass(frozen=True, kw_only=True)
class LcmBoundary:
    """x0 = boundary_skip * (x of unit variance) + boundary_out * (x0 of the prediction inside) (Luo et al. 2023, 4.2).

    A `Prediction` for full LCM U-Nets. Their LoRAs are trained the same way, but below timestep 5, where alone it
    shows, no common schedule stops.
    """

    prediction: Prediction
    levels: Timesteps

    def c_skip(self, sigma: float) -> float:
        skip, out = self._boundary(sigma)
        return out * self.prediction.c_skip(sigma) + skip * self.prediction.c_in(sigma)

    def c_out(self, sigma: float) -> float:
        return self._boundary(sigma)[1] * self.prediction.c_out(sigma)

    def c_in(self, sigma: float) -> float:
        return self.prediction.c_in(sigma)

    def _boundary(self, sigma: float) -> tuple[float, float]:
        scaled = _TIMESTEP_SCALING * self.levels.timestep(sigma)
        variance = scaled**2 + _SIGMA_DATA**2
        return _SIGMA_DATA**2 / variance, scaled / math.sqrt(variance)
