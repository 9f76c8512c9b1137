"""What a sampler is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.process import Denoise, Process


class Sample(Protocol):
    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Sequence[float], process: Process, noise: NoiseSource, /
    ) -> Tensor:
        """Go from x, which has the noise of sigmas[0], to the noise of sigmas[-1]; x itself is left alone.

        x: float32 [B, C, H, W]. sigmas: descending; the last is usually 0.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A registered sampler.

    default_schedule: name of the schedule behind "Automatic".
    evaluations_per_step: model calls in a step; a sampler of second order makes one less in a step that ends at 0.
    uses_noise: draws noise while sampling.
    discards_penultimate_sigma: works better without the last level before 0 (see `schedules.sigmas_for`).
    """

    name: str
    label: str
    aliases: tuple[str, ...] = ()
    sample: Sample
    default_schedule: str = "normal"
    evaluations_per_step: int = 1
    uses_noise: bool = False
    discards_penultimate_sigma: bool = False
