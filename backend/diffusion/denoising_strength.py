"""How much of a schedule is gone through when a picture is there to begin with."""

from __future__ import annotations

from collections.abc import Callable

# Above, the first of A1111's steps would be one beyond the schedule's beginning.
_HIGHEST = 0.999


def sigmas_of_rest(
    schedule: Callable[[int], list[float]], steps: int, strength: float, *, exact_steps: bool
) -> list[float]:
    """The noise levels from where noise is mixed into the picture down to 0; at strength 0 none at all.

    schedule: steps -> steps + 1 levels. exact_steps: `steps` steps, the last ones of a longer schedule; else the last
    of `steps` steps, as many as the strength's share and one. Both are as A1111 and Forge count.
    """
    if strength <= 0:
        return [0.0]
    strength = min(strength, _HIGHEST)
    if exact_steps:
        return schedule(int(steps / strength))[-(steps + 1) :]
    return schedule(steps)[-(int(strength * steps) + 2) :]
