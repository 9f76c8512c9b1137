"""What a caller is told while a job runs."""

from __future__ import annotations

import time
from typing import Protocol

from backend.pipeline.plan import GenerationPlan


class Report(Protocol):
    """From the thread that runs the job unless said otherwise."""

    def stage(self, name: str) -> None: ...

    def notice(self, text: str) -> None:
        """Something that the user should know and that does not end the job."""
        ...

    def progress(self, step: int, steps: int, seconds_per_step: float, eta_seconds: float) -> None:
        """`step` of `steps`, counted over all batches that are still to be made and those that were made."""
        ...

    def preview(self, jpeg: bytes) -> None:
        """From a thread of its own."""
        ...


class Clock:
    """Steps done, their speed and what is left, over all batches of a job and all trips of a batch."""

    def __init__(self, plan: GenerationPlan, steps_per_batch: int, first_image: int, report: Report) -> None:
        batches = -(-plan.num_images // plan.batch_size)
        self._steps_per_batch = steps_per_batch
        self._steps = batches * steps_per_batch
        self._done = first_image // plan.batch_size * steps_per_batch
        self._report = report
        self._began = time.monotonic()
        self._before = 0  # steps of this batch before this trip

    def start_batch(self) -> None:
        self._before = 0

    def start_trip(self) -> None:
        self._began = time.monotonic()

    def evaluated(self, step: int) -> None:
        """Evaluation number `step` (0-based) of this trip ended."""
        in_batch = min(self._before + step + 1, self._steps_per_batch)
        speed = (time.monotonic() - self._began) / (step + 1)
        done = self._done + in_batch
        self._report.progress(done, self._steps, speed, speed * (self._steps - done))

    def end_trip(self, steps: int) -> None:
        self._before += steps

    def end_batch(self) -> None:
        self._done += self._steps_per_batch
