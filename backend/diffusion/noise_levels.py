"""The noise levels a discrete-time model was trained on, and the map between timesteps and sigmas."""

from __future__ import annotations

import itertools
import math
import operator
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

# A terminal signal-to-noise ratio of exactly zero would be sigma = infinity. This share of signal keeps it finite
# (sigma 4518.8). It is the constant ComfyUI uses, which is where such models are mostly tuned; diffusers has 2**-24.
ZERO_SNR_TERMINAL_ALPHA_BAR = 4.8973451890853435e-08


@dataclass(frozen=True)
class NoiseLevels:
    """sigmas: standard deviation of the noise (data keep scale 1) at timesteps 0, 1, ... ascending.

    Timesteps between the trained ones are linear in log sigma, as in k-diffusion.
    """

    sigmas: tuple[float, ...]

    @classmethod
    def scaled_linear(
        cls,
        *,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        timesteps: int = 1000,
        zero_terminal_snr: bool = False,
    ) -> NoiseLevels:
        """The schedule of Stable Diffusion: the square root of beta is linear in the timestep.

        zero_terminal_snr: rescaled so that nothing of the data is left at the last timestep (Lin et al. 2023,
        algorithm 1); the last level is clamped to `ZERO_SNR_TERMINAL_ALPHA_BAR`.
        """
        low, high = math.sqrt(beta_start), math.sqrt(beta_end)
        alpha_bars = _alpha_bars([(low + (high - low) * t / (timesteps - 1)) ** 2 for t in range(timesteps)])
        return cls(_sigmas(_with_zero_terminal_snr(alpha_bars) if zero_terminal_snr else alpha_bars))

    @classmethod
    def linear(cls, *, beta_start: float = 1e-4, beta_end: float = 0.02, timesteps: int = 1000) -> NoiseLevels:
        """The schedule of Ho et al. 2020, which DiT and PixArt have: beta is linear in the timestep."""
        betas = [beta_start + (beta_end - beta_start) * t / (timesteps - 1) for t in range(timesteps)]
        return cls(_sigmas(_alpha_bars(betas)))

    @property
    def sigma_min(self) -> float:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> float:
        return self.sigmas[-1]

    @property
    def num_levels(self) -> int:
        return len(self.sigmas)

    @property
    def last_timestep(self) -> int:
        return len(self.sigmas) - 1

    @property
    def lowest_index(self) -> float:
        return 0.0

    def level(self, index: float) -> float:
        """The same as `sigma`: a discrete model's timesteps are the numbers of its levels."""
        return self.sigma(index)

    def sigma(self, timestep: float) -> float:
        """Noise level at a timestep, which is clamped to the trained range."""
        timestep = min(max(timestep, 0.0), float(self.last_timestep))
        low = int(timestep)
        share = timestep - low
        if share == 0:
            return self.sigmas[low]
        return math.exp((1 - share) * math.log(self.sigmas[low]) + share * math.log(self.sigmas[low + 1]))

    def timestep(self, sigma: float) -> float:
        """Timestep of a noise level; levels outside the trained range get its ends."""
        if sigma <= self.sigma_min:
            return 0.0
        if sigma >= self.sigma_max:
            return float(self.last_timestep)
        high = bisect_right(self.sigmas, sigma)
        lower, upper = self.sigmas[high - 1], self.sigmas[high]
        return high - 1 + math.log(sigma / lower) / math.log(upper / lower)


def _alpha_bars(betas: Sequence[float]) -> list[float]:
    return list(itertools.accumulate((1 - beta for beta in betas), operator.mul))


def _sigmas(alpha_bars: Sequence[float]) -> tuple[float, ...]:
    return tuple(math.sqrt((1 - alpha_bar) / alpha_bar) for alpha_bar in alpha_bars)


def _with_zero_terminal_snr(alpha_bars: Sequence[float]) -> list[float]:
    """Shift and scale the square roots so that the first stays and the last is (nearly) zero."""
    roots = [math.sqrt(alpha_bar) for alpha_bar in alpha_bars]
    first, last = roots[0], roots[-1]
    rescaled = [((root - last) * first / (first - last)) ** 2 for root in roots]
    return [*rescaled[:-1], ZERO_SNR_TERMINAL_ALPHA_BAR]
