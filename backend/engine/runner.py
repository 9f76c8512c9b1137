"""The worker: runs queued jobs one after the other, and turns what happens into events."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

from backend.engine.job import JobState, JobView, SavedImage
from backend.engine.job_report import JobReport, Previews
from backend.engine.job_table import JobTable
from backend.engine.journal import Journal
from backend.engine.publisher import Publisher
from backend.errors import Cancelled, EmulsionError, OutOfMemory, OutputError
from backend.events import ImageSaved, JobCancelled, JobDone, JobFailed, JobStarted
from backend.memory.device import DeviceFacts
from backend.memory.out_of_memory import is_out_of_memory
from backend.memory.peak_watch import PeakWatch, StagePeak

_log = logging.getLogger(__name__)

Work = Callable[[JobView, JobReport], None]


class JobRunner:
    """Works off a `JobTable` on the thread that calls `run_until_closed`.

    work: does what a job asks for, from where it was interrupted, and raises EmulsionError when it cannot.
    """

    def __init__(self, jobs: JobTable, journal: Journal, publisher: Publisher, device: DeviceFacts, work: Work) -> None:
        self._jobs = jobs
        self._journal = journal
        self._publisher = publisher
        self._work = work
        self._previews = Previews()
        self._peaks = PeakWatch(device)

    def run_until_closed(self) -> None:
        while (view := self._jobs.take_next()) is not None:
            self._run(view)

    def preview(self, job_id: str) -> bytes | None:
        """The newest preview of a job, if no other one has had one since."""
        return self._previews.of(job_id)

    def peaks(self) -> tuple[StagePeak, ...]:
        """The most memory that each stage of the last job took; of the running one, those that have ended."""
        return self._peaks.peaks()

    def notice(self, job_id: str, text: str) -> None:
        self._report(job_id).notice(text)

    def save_image(self, job_id: str, saved: SavedImage) -> None:
        """A picture of a job lies on the disk."""
        view = self._jobs.get(job_id)
        view = self._jobs.update(job_id, images=(*view.images, saved))
        self._record(job_id, lambda: self._journal.save(view))
        self._publisher.publish(ImageSaved(job_id=job_id, path=saved.path, seed=saved.seed, infotext=saved.infotext))

    def _run(self, view: JobView) -> None:
        began = time.monotonic()
        if not self._jobs.start_if_queued(view.id):
            return  # cancelled in the meantime
        self._record(view.id, lambda: self._journal.started(view.id))
        self._publisher.publish(JobStarted(job_id=view.id))
        self._peaks.clear()
        error = self._attempt(view)
        self._peaks.end()
        self._end(view.id, error, time.monotonic() - began)

    def _attempt(self, view: JobView) -> EmulsionError | None:
        """Do what is asked for; returns why that ended early."""
        try:
            self._work(view, self._report(view.id))
        except EmulsionError as error:
            return error.with_traceback(None)
        except Exception as error:
            if is_out_of_memory(error):
                return OutOfMemory(
                    "There is not enough memory for this job. Make the picture or the batch smaller, close other "
                    "programs, or start with --lowvram."
                )
            _log.exception("job %s failed in a way that nobody expected", view.id)
            return InternalError(
                f"Something in Emulsion broke: {type(error).__name__}: {error}. The log tells where; please report it."
            )
        return None

    def _report(self, job_id: str) -> JobReport:
        return JobReport(job_id, self._jobs, self._publisher, self._peaks, self._previews)

    def _end(self, job_id: str, error: EmulsionError | None, seconds: float) -> None:
        match error:
            case None:
                self._finish(job_id, JobState.DONE, seconds)
                self._publisher.publish(JobDone(job_id=job_id, seconds=seconds))
            case Cancelled() if self._jobs.is_closed:
                self._record(
                    job_id, lambda: self._journal.put_back(job_id)
                )  # the program ends; the job goes on at the next start
            case Cancelled():
                self._finish(job_id, JobState.CANCELLED, seconds)
                self._publisher.publish(JobCancelled(job_id=job_id))
            case _:
                kind = type(error).__name__
                _log.warning("job %s failed: %s", job_id, error)
                self._finish(job_id, JobState.FAILED, seconds, error=str(error), error_kind=kind)
                self._publisher.publish(JobFailed(job_id=job_id, kind=kind, message=str(error)))

    def _finish(self, job_id: str, state: JobState, seconds: float, *, error: str = "", error_kind: str = "") -> None:
        view = self._jobs.get(job_id)
        final = dataclasses.replace(view, state=state, seconds=seconds, stage="", error=error, error_kind=error_kind)
        self._record(job_id, lambda: self._journal.save(final))  # before anybody is told
        self._jobs.update(job_id, state=state, seconds=seconds, stage="", error=error, error_kind=error_kind)

    def _record(self, job_id: str, write: Callable[[], None]) -> None:
        """Write to the journal. When that fails the job goes on, and only a restart would not know of it."""
        try:
            write()
        except OutputError as error:
            _log.warning("job %s: %s", job_id, error)
            self.notice(job_id, str(error))


class InternalError(EmulsionError):
    """A fault of the program."""
