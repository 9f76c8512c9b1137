"""What a running job tells of itself: into the table of jobs, and as events."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from backend.engine.job_table import JobTable
from backend.engine.publisher import Publisher
from backend.events import BytesDone, Notice, PreviewReady, Progress, StageStarted
from backend.memory.peak_watch import PeakWatch

_SECONDS_BETWEEN_BYTES = 0.2


class Previews:
    """The newest preview; it stays until another job has one, for who asks a moment late."""

    def __init__(self) -> None:
        self._newest: tuple[str, bytes] | None = None

    def show(self, job_id: str, jpeg: bytes) -> None:
        self._newest = (job_id, jpeg)

    def of(self, job_id: str) -> bytes | None:
        newest = self._newest
        return newest[1] if newest and newest[0] == job_id else None


class JobReport:
    """The pipeline's `Report` of one job, and more."""

    def __init__(self, job_id: str, jobs: JobTable, publisher: Publisher, peaks: PeakWatch, previews: Previews) -> None:
        self.job_id = job_id
        self._jobs = jobs
        self._publisher = publisher
        self._peaks = peaks
        self._previews = previews
        self._bytes_began = 0.0
        self._bytes_told = 0.0

    def is_cancelled(self) -> bool:
        return self._jobs.is_cancelled(self.job_id)

    def stage(self, name: str) -> None:
        self._peaks.begin(name)
        self._jobs.update(self.job_id, stage=name)
        self._publisher.publish(StageStarted(job_id=self.job_id, stage=name))

    def notice(self, text: str) -> None:
        """Once for each text."""
        view = self._jobs.get(self.job_id)
        if text not in view.notices:
            self._jobs.update(self.job_id, notices=(*view.notices, text))
            self._publisher.publish(Notice(job_id=self.job_id, text=text))

    def adapters(self, facts: Iterable[Mapping[str, Any]]) -> None:
        """What acts on the pictures, see `JobView`."""
        self._jobs.update(self.job_id, adapters=tuple(facts))

    def progress(self, step: int, steps: int, seconds_per_step: float, eta_seconds: float) -> None:
        told = {"step": step, "steps": steps, "seconds_per_step": seconds_per_step, "eta_seconds": eta_seconds}
        self._jobs.update(self.job_id, **told)
        self._publisher.publish(
            Progress(
                job_id=self.job_id, step=step, steps=steps, seconds_per_step=seconds_per_step, eta_seconds=eta_seconds
            )
        )

    def bytes_done(self, done: int, total: int) -> None:
        """Of what is written, for any number of calls: told a few times in a second."""
        now = time.monotonic()
        if not self._bytes_began:
            self._bytes_began = now
        if now - self._bytes_told < _SECONDS_BETWEEN_BYTES and done < total:
            return
        self._bytes_told = now
        eta = (now - self._bytes_began) * (total - done) / done if done else 0.0
        self._jobs.update(self.job_id, done_bytes=done, all_bytes=total, eta_seconds=eta)
        self._publisher.publish(BytesDone(job_id=self.job_id, done_bytes=done, all_bytes=total, eta_seconds=eta))

    def preview(self, jpeg: bytes) -> None:
        self._previews.show(self.job_id, jpeg)
        version = self._jobs.get(self.job_id).preview_version + 1
        self._jobs.update(self.job_id, preview_version=version)
        self._publisher.publish(PreviewReady(job_id=self.job_id, version=version, jpeg=jpeg))
