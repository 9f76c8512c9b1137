"""Sampler and schedule as people write them: "Automatic", and the old names that hold both."""

from __future__ import annotations

from backend.diffusion.samplers.sampler import Sampler
from backend.diffusion.schedules import AUTOMATIC, Schedule
from backend.errors import UnknownName
from backend.registry import Registry


def resolve_schedule(name: str | None, sampler: Sampler, schedules: Registry[Schedule]) -> Schedule:
    """The schedule called `name`; the sampler's own for None, "" and "Automatic". Raises UnknownName."""
    if name is None or name.strip().casefold() in ("", AUTOMATIC):
        return schedules[sampler.default_schedule]
    return schedules[name]


def split_sampler_name(
    text: str, samplers: Registry[Sampler], schedules: Registry[Schedule]
) -> tuple[Sampler, str | None]:
    """Read "DPM++ 2M Karras" as a sampler and a schedule's name.

    The name is None when the text names a sampler alone and "automatic" when it names the sampler's own schedule.
    Raises UnknownName when no sampler is left.
    """
    if text in samplers:
        return samplers[text], None
    for schedule in schedules:
        for ending in (schedule.label, schedule.name, *schedule.aliases):
            rest = _without_ending(text, ending)
            if rest is not None and rest in samplers:
                sampler = samplers[rest]
                is_default = schedules[sampler.default_schedule] is schedule
                return sampler, AUTOMATIC if is_default else schedule.name
    raise UnknownName(samplers.kind, text, samplers.labels())


def _without_ending(text: str, ending: str) -> str | None:
    """`text` without its last words, when those are `ending`; None otherwise."""
    flat, last = (part.casefold().replace("_", " ").replace("-", " ").rstrip() for part in (text, ending))
    return flat[: -len(last)].rstrip() if flat.endswith(f" {last}") else None
