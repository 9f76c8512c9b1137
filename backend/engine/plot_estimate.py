"""How long a plot will take, by the last job."""

from __future__ import annotations

from collections.abc import Sequence

from backend.engine.job import JobState, JobView
from backend.engine.plot_cells import cell_request, places
from backend.engine.plot_request import PlotRequest
from backend.merging.rule import Rule
from backend.registry import Registry
from backend.request import GenerationRequest

_MOST_COUNTED = 400  # cells; of larger plots, evenly spread ones


def estimated_seconds(plot: PlotRequest, jobs: Sequence[JobView], rules: Registry[Rule]) -> float | None:
    """By the time that a step takes for a pixel in the newest finished job; None where there is none yet.

    Raises RequestError, which names the axis.
    """
    cells = places(plot.sizes)
    counted = cells[:: max(1, len(cells) // _MOST_COUNTED)]
    requests = [cell_request(plot, place, rules) for place in counted]
    last = next((job for job in reversed(jobs) if job.state is JobState.DONE and job.images and _work(job)), None)
    if last is None or not isinstance(last.request, GenerationRequest):
        return None
    rate = last.seconds / (_work(last) * len(last.images))
    return rate * sum(_pixel_steps(request, last.request) for request in requests) * len(cells) / len(counted)


def _work(job: JobView) -> float:
    return _pixel_steps(job.request, job.request) if isinstance(job.request, GenerationRequest) else 0.0


def _pixel_steps(request: GenerationRequest, usual: GenerationRequest) -> float:
    """Steps times pixels of the first pass; what is open is as it was in the `usual` request."""
    strength = 1.0 if request.init is None or request.init.exact_steps else request.init.denoising_strength
    steps = request.steps or usual.steps or 0
    return steps * max(strength, 0.02) * (request.width or usual.width or 0) * (request.height or usual.height or 0)
