"""Schedules of models that were distilled to few steps: they stop where the model was taught to.

Timesteps are those of a model with 1000 trained levels; others are stopped at the same shares of theirs.
"""

from __future__ import annotations

from backend.diffusion.levels import Levels, at_levels


def turbo(steps: int, levels: Levels) -> list[float]:
    """Trained levels that divide all of them evenly, counted from the noisiest: 999, 749, 499, 249 for 4 steps.

    diffusers calls it trailing, and SDXL Lightning and Hyper-SD are sampled like this, too.
    """
    stride = levels.num_levels / steps
    return at_levels([round(levels.num_levels - i * stride) - 1 for i in range(steps)], levels)


def sd_turbo(steps: int, levels: Levels) -> list[float]:
    """The first of 999, 899, ... 99, as ComfyUI's node SDTurboScheduler; more than ten steps are those of `turbo`."""
    if steps > 10:
        return turbo(steps, levels)
    return at_levels([levels.num_levels - levels.num_levels * i / 10 - 1 for i in range(steps)], levels)


def lcm_grid(steps: int, levels: Levels) -> list[float]:
    """A choice of 999, 979, ... 19, on which latent consistency models are trained: 999, 759, 499, 259 for 4 steps.

    More than fifty steps divide the range evenly.
    """
    trained = 50
    chosen = [i * trained / steps for i in range(steps)]
    if steps <= trained:
        chosen = [int(position) for position in chosen]
    return at_levels([levels.num_levels - levels.num_levels * position / trained - 1 for position in chosen], levels)


def dmd2(steps: int, levels: Levels) -> list[float]:
    """999, 749, 499, 249 for 4 steps, and 399 for the model of one step (Yin et al. 2024); otherwise as `turbo`."""
    if steps == 1:
        return at_levels([levels.num_levels * 2 / 5 - 1], levels)
    return turbo(steps, levels)
