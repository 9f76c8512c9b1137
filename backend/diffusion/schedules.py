"""At which noise levels a sampler stops on its way: steps -> steps + 1 descending sigmas, the last of them 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backend.diffusion.align_your_steps import align_your_steps, align_your_steps_sdxl
from backend.diffusion.beta_distribution import beta_ppf
from backend.diffusion.distilled_schedules import dmd2, lcm_grid, sd_turbo, turbo
from backend.diffusion.levels import Levels, at_levels

AUTOMATIC = "automatic"  # not a schedule: the choice to take the sampler's own


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A registered schedule.

    sigmas(steps, levels) gives steps + 1 levels from sigma_max down to 0, none twice; 1 <= steps <= trained levels.
    The one that begins below sigma_max is DMD2's for one step (see `process.start`).
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
    """Even in the level's number, from the last one to the first: for U-Nets in the timestep."""
    return at_levels(_evenly(levels.num_levels - 1, levels.lowest_index, steps), levels)


def sgm_uniform(steps: int, levels: Levels) -> list[float]:
    """Even in the level's number, where the step to clean data is about as long as the others ("trailing")."""
    return at_levels(_evenly(levels.num_levels - 1, levels.lowest_index, steps + 1)[:-1], levels)


def simple(steps: int, levels: Levels) -> list[float]:
    """Every (1000 / steps)th trained level, counted from the noisiest."""
    stride = levels.num_levels / steps
    return at_levels([levels.num_levels - 1 - int(i * stride) for i in range(steps)], levels)


def karras(steps: int, levels: Levels, rho: float = 7.0) -> list[float]:
    """Even in sigma ** (1 / rho) (Karras et al. 2022, equation 5)."""
    roots = _evenly(levels.sigma_max ** (1 / rho), levels.sigma_min ** (1 / rho), steps)
    return [*(root**rho for root in roots), 0.0]


def exponential(steps: int, levels: Levels) -> list[float]:
    """Even in log sigma."""
    logs = _evenly(math.log(levels.sigma_max), math.log(levels.sigma_min), steps)
    return [*(math.exp(log) for log in logs), 0.0]


def beta(steps: int, levels: Levels, a: float = 0.6, b: float = 0.6) -> list[float]:
    """Levels at quantiles of a beta distribution, dense at both ends (Lee et al. 2024, "Beta Sampling").

    As in ComfyUI the quantiles are numbers of trained levels. `beta_on_sigma` has them on sigma.
    """
    quantiles = [beta_ppf(1 - i / steps, a, b) * (levels.num_levels - 1) for i in range(steps)]
    return at_levels(_whole(quantiles), levels)


def beta_on_sigma(steps: int, levels: Levels, a: float = 0.6, b: float = 0.6) -> list[float]:
    """What A1111 calls Beta: the quantiles lie between the least and the greatest sigma, so most steps are noisy ones.

    The last step begins at the least sigma.
    """
    quantiles = [beta_ppf(share, a, b) for share in _evenly(1.0, 0.0, steps)]
    return [*(levels.sigma_min + quantile * (levels.sigma_max - levels.sigma_min) for quantile in quantiles), 0.0]


BUILTIN = (
    Schedule(name="normal", label="Normal", sigmas=normal),
    Schedule(name="karras", label="Karras", sigmas=karras),
    Schedule(name="exponential", label="Exponential", sigmas=exponential),
    Schedule(name="sgm_uniform", label="SGM Uniform", aliases=("trailing",), sigmas=sgm_uniform),
    Schedule(name="simple", label="Simple", sigmas=simple),
    Schedule(name="beta", label="Beta", sigmas=beta),
    Schedule(name="beta_a1111", label="Beta (A1111)", sigmas=beta_on_sigma),
    Schedule(name="turbo", label="Turbo (trailing)", aliases=("turbo_trailing", "lightning"), sigmas=turbo),
    Schedule(name="sd_turbo", label="SD Turbo", aliases=("SDTurboScheduler",), sigmas=sd_turbo),
    Schedule(name="lcm", label="LCM", aliases=("tcd",), sigmas=lcm_grid),
    Schedule(name="dmd2", label="DMD2", sigmas=dmd2),
    Schedule(name="align_your_steps", label="Align Your Steps", aliases=("ays",), sigmas=align_your_steps),
    Schedule(
        name="align_your_steps_sdxl",
        label="Align Your Steps SDXL",
        aliases=("ays_sdxl",),
        sigmas=align_your_steps_sdxl,
    ),
)


def _evenly(first: float, last: float, count: int) -> list[float]:
    if count == 1:
        return [first]
    return [first + (last - first) * i / (count - 1) for i in range(count - 1)] + [last]


def _whole(indices: Sequence[float]) -> list[float]:
    """Rounded to trained levels, unless that would make two steps one: a run has the steps that were asked for."""
    rounded = [float(round(index)) for index in indices]
    return rounded if len(set(rounded)) == len(rounded) else list(indices)
