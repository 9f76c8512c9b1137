"""A queue whose jobs a test ends by hand: boards need no more of the engine."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend.engine.boards import JobQueue
from backend.engine.job import JobState, JobView, SavedImage
from backend.errors import RequestError, UnknownName
from backend.events import Event, JobCancelled, JobDone, JobFailed
from backend.images.png_text import encode_png
from backend.request import GenerationRequest


class FakeQueue:
    """folder: for pictures. places: how many jobs may wait. refused: a prompt that is refused when it is queued."""

    def __init__(self, folder: Path, *, places: int = 1000, refused: str = "") -> None:
        self.jobs: dict[str, JobView] = {}
        self.stored: dict[str, bytes] = {}
        self.places = places
        self.refused = refused
        self.hear: Callable[[Event], None] = lambda event: None
        self._folder = folder

    def for_boards(self) -> JobQueue:
        return JobQueue(
            submit=self.submit,
            check=lambda request: None,
            room=lambda: self.places - len(self.waiting()),
            job=self.job,
            cancel=self.cancel,
            save_grid=self.save_grid,
            keep_picture=self.keep,
        )

    def waiting(self) -> list[JobView]:
        return [job for job in self.jobs.values() if job.state is JobState.QUEUED]

    def submit(self, request: GenerationRequest) -> str:
        if self.refused and self.refused in request.prompt:
            raise RequestError("prompt", "is refused")
        job = JobView(id=f"job-{len(self.jobs)}", state=JobState.QUEUED, request=request)
        self.jobs[job.id] = job
        return job.id

    def job(self, job_id: str) -> JobView:
        if job_id not in self.jobs:
            raise UnknownName("job", job_id, [])
        return self.jobs[job_id]

    def cancel(self, job_id: str) -> None:
        if not self.jobs[job_id].state.is_final:
            self.jobs[job_id] = dataclasses.replace(self.jobs[job_id], state=JobState.CANCELLED)
            self.hear(JobCancelled(job_id=job_id))

    def finish(self, job: JobView) -> None:
        """The picture's bytes say which job it was."""
        path = self._folder / f"{job.id}.png"
        pixels = np.full((16, 16, 3), len(self.stored) + 1, np.uint8)
        pixels[0, 0] = int(job.id.rpartition("-")[2]) % 256
        assert isinstance(job.request, GenerationRequest)
        infotext = f"{job.request.prompt}\nSteps: 2, Sampler: Euler, Seed: {job.request.seed}, Size: 16x16"
        path.write_bytes(encode_png(pixels, {"parameters": infotext}))
        image = SavedImage(path=path, seed=job.request.seed, infotext=infotext, width=16, height=16)
        self.jobs[job.id] = dataclasses.replace(job, state=JobState.DONE, images=(image,))
        self.hear(JobDone(job_id=job.id, seconds=1.0))

    def fail(self, job: JobView) -> None:
        self.jobs[job.id] = dataclasses.replace(job, state=JobState.FAILED, error="It broke.")
        self.hear(JobFailed(job_id=job.id, kind="NumericalError", message="It broke."))

    def finish_all(self) -> None:
        while waiting := self.waiting():
            self.finish(waiting[0])

    def keep(self, data: bytes, name: str) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        self.stored[sha256] = data
        return sha256

    def save_grid(self, pixels: npt.NDArray[np.uint8], seed: int, texts: dict[str, str]) -> Path:
        path = self._folder / f"grid-{len(list(self._folder.glob('grid-*')))}.png"
        path.write_bytes(encode_png(pixels, texts))
        return path
