"""What schedules and predictions need to know of the noise levels that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Levels(Protocol):
    """Noise levels by timestep, which is whatever the network is told, and by number.

    `NoiseLevels` of discrete models, `FlowLevels` of rectified flows, `EdmLevels` of Karras et al. 2022.
    """

    @property
    def sigma_min(self) -> float: ...

    @property
    def sigma_max(self) -> float: ...

    @property
    def last_timestep(self) -> float:
        """The timestep of sigma_max."""
        ...

    @property
    def num_levels(self) -> int:
        """How many levels the model was trained on; for continuous ones how many to tell apart."""
        ...

    @property
    def lowest_index(self) -> float:
        """The number at which schedules that are even in the number end; for most levels 0."""
        ...

    def level(self, index: float) -> float:
        """Level number `index` in the order of training: sigma_min is 0 and sigma_max is num_levels - 1.

        Fractions lie between two levels; numbers outside the range are clamped to it.
        """
        ...

    def sigma(self, timestep: float) -> float:
        """Noise level at a timestep, which is clamped to the trained range."""
        ...

    def timestep(self, sigma: float) -> float:
        """Timestep of a noise level; levels outside the trained range get its ends."""
        ...


def at_levels(indices: Sequence[float], levels: Levels) -> list[float]:
    """The sigmas of these level numbers, and the 0 that a run ends with."""
    return [*(levels.level(index) for index in indices), 0.0]
