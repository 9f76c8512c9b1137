"""At which noise levels a sampler stops on its way: steps -> steps + 1 descending sigmas, the last of them 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backend.diffusion.beta_distribution import beta_ppf
from backend.diffusion.levels import Levels

AUTOMATIC = "automatic"  # not a schedule: the choice to take the sampler's own


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A registered schedule.

    sigmas(steps, levels) gives steps + 1 levels from sigma_max down to 0, none twice; 1 <= steps <= trained levels.
    """

    name: str
    label: str
    aliases: tuple[str, ...] = ()
    sigmas: Callable[[int, Levels], list[float]]


def sigmas_for(
    schedule: Schedule, steps: int, levels: Levels, *, discards_penultimate_sigma: bool = False
) -> list[float]:
    """The levels of a run. discards_penultimate_sigma: the sampler's; ask for one more and drop the last before 0."""
    if not discards_penultimate_sigma:
        return schedule.sigmas(steps, levels)
    sigmas = schedule.sigmas(steps + 1, levels)
    return [*sigmas[:-2], sigmas[-1]]


def normal(steps: int, levels: Levels) -> list[float]:
    """Even in the timestep, from the last one to the first."""
    return _at_timesteps(_evenly(levels.last_timestep, 0, steps), levels)


def sgm_uniform(steps: int, levels: Levels) -> list[float]:
    """Even in the timestep, where the step to clean data is as long as the others ("trailing")."""
    return _at_timesteps(_evenly(levels.last_timestep, 0, steps + 1)[:-1], levels)


def simple(steps: int, levels: Levels) -> list[float]:
    """Every (1000 / steps)th trained level, counted from the noisiest."""
    stride = levels.num_levels / steps
    return _at_timesteps([levels.last_timestep - int(i * stride) for i in range(steps)], levels)


def karras(steps: int, levels: Levels, rho: float = 7.0) -> list[float]:
    """Even in sigma ** (1 / rho) (Karras et al. 2022, equation 5)."""
    roots = _evenly(levels.sigma_max ** (1 / rho), levels.sigma_min ** (1 / rho), steps)
    return [*(root**rho for root in roots), 0.0]


def exponential(steps: int, levels: Levels) -> list[float]:
    """Even in log sigma."""
    logs = _evenly(math.log(levels.sigma_max), math.log(levels.sigma_min), steps)
    return [*(math.exp(log) for log in logs), 0.0]


def beta(steps: int, levels: Levels, a: float = 0.6, b: float = 0.6) -> list[float]:
    """Timesteps at quantiles of a beta distribution, dense at both ends (Lee et al. 2024, "Beta Sampling").

    As in ComfyUI the quantiles are timesteps, rounded to trained ones. A1111's schedule of this name has them on sigma.
    """
    quantiles = [beta_ppf(1 - i / steps, a, b) * levels.last_timestep for i in range(steps)]
    return _at_timesteps(_whole(quantiles), levels)


BUILTIN = (
    Schedule(name="normal", label="Normal", sigmas=normal),
    Schedule(name="karras", label="Karras", sigmas=karras),
    Schedule(name="exponential", label="Exponential", sigmas=exponential),
    Schedule(name="sgm_uniform", label="SGM Uniform", aliases=("trailing",), sigmas=sgm_uniform),
    Schedule(name="simple", label="Simple", sigmas=simple),
    Schedule(name="beta", label="Beta", sigmas=beta),
)


def _evenly(first: float, last: float, count: int) -> list[float]:
    if count == 1:
        return [first]
    return [first + (last - first) * i / (count - 1) for i in range(count - 1)] + [last]


def _at_timesteps(timesteps: Sequence[float], levels: Levels) -> list[float]:
    return [*(levels.sigma(timestep) for timestep in timesteps), 0.0]


def _whole(timesteps: Sequence[float]) -> list[float]:
    """Rounded to trained timesteps, unless that would make two steps one: a run has the steps that were asked for."""
    rounded = [float(round(timestep)) for timestep in timesteps]
    return rounded if len(set(rounded)) == len(rounded) else list(timesteps)
