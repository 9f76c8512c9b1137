"""The schedules that Sabour et al. 2024 ("Align Your Steps") optimised for 10 steps of Stable Diffusion."""

from __future__ import annotations

import math
from collections.abc import Sequence

from backend.diffusion.levels import Levels

# as published, with the ends (14.615, 0.029) to one digit more, so that Stable Diffusion's own range is not stretched
_SD1 = (14.6146, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.02917)
_SDXL = (14.6146, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.02917)


def align_your_steps(steps: int, levels: Levels) -> list[float]:
    """The levels for SD 1.5."""
    return _stretched(_SD1, steps, levels)


def align_your_steps_sdxl(steps: int, levels: Levels) -> list[float]:
    """The levels for SDXL."""
    return _stretched(_SDXL, steps, levels)


def _stretched(table: Sequence[float], steps: int, levels: Levels) -> list[float]:
    """The table at steps + 1 even places, linear in log sigma, the last replaced by 0.

    Models with other levels than Stable Diffusion's get the table stretched, in log sigma, to the range of theirs.
    """
    logs = [math.log(sigma) for sigma in table]
    log_max, log_min = math.log(levels.sigma_max), math.log(levels.sigma_min)
    scale = (log_max - log_min) / (logs[0] - logs[-1])
    inner = [_interpolated(logs, i * (len(logs) - 1) / steps) for i in range(1, steps)]
    return [levels.sigma_max, *(math.exp(log_max + (log - logs[0]) * scale) for log in inner), 0.0]


def _interpolated(values: Sequence[float], place: float) -> float:
    low = int(place)
    share = place - low
    return values[low] + share * (values[low + 1] - values[low]) if share else values[low]
