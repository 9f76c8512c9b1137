"""The worker: runs queued jobs one after the other, and turns what happens into events."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from backend.engine.job import JobState, JobView, SavedImage
from backend.engine.job_table import JobTable
from backend.engine.journal import Journal
from backend.engine.library import Library
from backend.engine.models import Models
from backend.engine.outputs import Outputs
from backend.engine.preferences import Preferences
from backend.engine.publisher import Publisher
from backend.errors import Cancelled, EmulsionError, NumericalError, OutOfMemory, OutputError
from backend.events import (
    ImageSaved,
    JobCancelled,
    JobDone,
    JobFailed,
    JobStarted,
    Notice,
    PreviewReady,
    Progress,
    StageStarted,
)
from backend.families.family import Machine
from backend.memory.out_of_memory import is_out_of_memory
from backend.memory.peak_watch import PeakWatch, StagePeak
from backend.pipeline.generate import GeneratedImage, generate
from backend.pipeline.metadata import INFOTEXT_KEY, picture_texts
from backend.pipeline.plan import GenerationPlan
from backend.request import GenerationRequest
from backend.weights.hashing import SHORT

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What running a job takes."""

    library: Library
    models: Models
    machine: Machine
    outputs: Outputs


class JobRunner:
    """Works off a `JobTable` on the thread that calls `run_until_closed`."""

    def __init__(
        self,
        jobs: JobTable,
        journal: Journal,
        publisher: Publisher,
        resources: Resources,
        plan: Callable[[GenerationRequest], GenerationPlan],
        preferences: Callable[[], Preferences],
    ) -> None:
        self._jobs = jobs
        self._journal = journal
        self._publisher = publisher
        self._resources = resources
        self._plan = plan
        self._preferences = preferences
        self._preview: tuple[str, bytes] | None = None
        self._peaks = PeakWatch(resources.machine.device)

    def run_until_closed(self) -> None:
        while (view := self._jobs.take_next()) is not None:
            self._run(view)

    def preview(self, job_id: str) -> bytes | None:
        """The newest preview of a job; the last one stays until another job has one, for who asks a moment late."""
        newest = self._preview
        return newest[1] if newest and newest[0] == job_id else None

    def peaks(self) -> tuple[StagePeak, ...]:
        """The most memory that each stage of the last job took; of the running one, those that have ended."""
        return self._peaks.peaks()

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
        """Make the pictures that are missing; returns why that ended early."""
        try:
            self._resources.machine.residency.begin_job()
            self._make_images(view)
        except NumericalError as error:
            return self._explained(error.with_traceback(None), view)
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

    def _explained(self, error: NumericalError, view: JobView) -> EmulsionError:
        """Whether damaged weights are to blame, which only reading all of them tells."""
        library = self._resources.library
        try:
            model = self._plan(view.request).model
            vae = library.find_vae(model.vae) if model.vae else None
            found = self._resources.models.first_bad_weight(library.find_checkpoint(model.checkpoint), vae)
        except EmulsionError as problem:
            return problem.with_traceback(None)
        return NumericalError(f"{found}. Download the file again, or choose another.") if found else error

    def _make_images(self, view: JobView) -> None:
        resources = self._resources
        plan = self._plan(view.request)
        resources.outputs.check()
        if plan.guidance_scale == 1 and plan.negative_prompt and not view.images:
            self.notice(view.id, "The negative prompt has no effect at guidance scale 1.")
        report = _JobReport(self, view.id)
        report.stage("loading the model")
        entry = resources.library.find_checkpoint(plan.model.checkpoint)
        vae = resources.library.find_vae(plan.model.vae) if plan.model.vae else None
        encoders = [resources.library.find_text_encoder(name) for name in plan.model.text_encoders]
        refiner = resources.library.find_checkpoint(plan.refiner.model.checkpoint) if plan.refiner else None
        images = generate(
            plan,
            resources.models.open(entry, vae, encoders, use_ema=plan.model.use_ema, reads_ahead=True),
            report,
            lambda: self._jobs.is_cancelled(view.id),
            refiner=resources.models.open(refiner, reads_ahead=True) if refiner else None,
            encode_prompt=resources.models.encode_prompt,
            first_image=len(view.images),
            preview_every=self._preferences().preview_every,
            device=resources.machine.device.torch_device,
            residency=resources.machine.residency,
        )
        began = time.monotonic()
        for image in images:
            report.stage("saving")
            model = dataclasses.replace(
                plan.model,
                checkpoint_hash=self._short_hash(view.id, lambda: resources.library.hash(entry).sha256, entry.name),
                vae_hash=self._short_hash(view.id, lambda: resources.library.hash_of(vae.path), vae.name)
                if vae
                else None,
            )
            self._save(view.id, dataclasses.replace(plan, model=model), image)
            _log.info("image %d of %d: %.1f s", image.index + 1, plan.num_images, time.monotonic() - began)
            began = time.monotonic()

    def _short_hash(self, job_id: str, find: Callable[[], str | None], name: str) -> str | None:
        """The hash for the metadata; a file that is gone by now costs the hash and not the finished picture."""
        try:
            return (find() or "")[:SHORT] or None
        except OSError as error:
            text = f"{name} could not be read again for its hash ({error.strerror}); the metadata go without it."
            if text not in self._jobs.get(job_id).notices:
                self.notice(job_id, text)
            return None

    def _save(self, job_id: str, plan: GenerationPlan, image: GeneratedImage) -> None:
        texts = picture_texts(plan, image.seed)
        path = self._resources.outputs.save(image.pixels, image.seed, texts)
        saved = SavedImage(
            path=path, seed=image.seed, infotext=texts[INFOTEXT_KEY], width=plan.width, height=plan.height
        )
        view = self._jobs.get(job_id)
        view = self._jobs.update(job_id, images=(*view.images, saved))
        self._record(job_id, lambda: self._journal.save(view))
        self._publisher.publish(ImageSaved(job_id=job_id, path=path, seed=image.seed, infotext=saved.infotext))

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
            if str(error) not in self._jobs.get(job_id).notices:
                self.notice(job_id, str(error))

    def notice(self, job_id: str, text: str) -> None:
        view = self._jobs.get(job_id)
        self._jobs.update(job_id, notices=(*view.notices, text))
        self._publisher.publish(Notice(job_id=job_id, text=text))

    def show_preview(self, job_id: str, jpeg: bytes) -> None:
        self._preview = (job_id, jpeg)
        view = self._jobs.get(job_id)
        version = view.preview_version + 1
        self._jobs.update(job_id, preview_version=version)
        self._publisher.publish(PreviewReady(job_id=job_id, version=version, jpeg=jpeg))

    def show_stage(self, job_id: str, stage: str) -> None:
        self._peaks.begin(stage)
        self._jobs.update(job_id, stage=stage)
        self._publisher.publish(StageStarted(job_id=job_id, stage=stage))

    def show_progress(self, event: Progress) -> None:
        self._jobs.update(
            event.job_id,
            step=event.step,
            steps=event.steps,
            seconds_per_step=event.seconds_per_step,
            eta_seconds=event.eta_seconds,
        )
        self._publisher.publish(event)


class InternalError(EmulsionError):
    """A fault of the program."""


@dataclass(frozen=True)
class _JobReport:
    """The pipeline's `Report` of one job."""

    runner: JobRunner
    job_id: str

    def stage(self, name: str) -> None:
        self.runner.show_stage(self.job_id, name)

    def notice(self, text: str) -> None:
        self.runner.notice(self.job_id, text)

    def progress(self, step: int, steps: int, seconds_per_step: float, eta_seconds: float) -> None:
        self.runner.show_progress(
            Progress(
                job_id=self.job_id,
                step=step,
                steps=steps,
                seconds_per_step=seconds_per_step,
                eta_seconds=eta_seconds,
            )
        )

    def preview(self, jpeg: bytes) -> None:
        self.runner.show_preview(self.job_id, jpeg)
