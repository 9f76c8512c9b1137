"""GET progress, POST interrupt and skip."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter
from starlette.exceptions import HTTPException

from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView
from backend.errors import NotSupported, UnknownName
from backend.request import GenerationRequest

_AT_WORK = 0.01  # A1111's progress before the first step; only an idle server shows 0


def progress_router(engine: Engine) -> APIRouter:
    router = APIRouter()

    @router.get("/progress")
    def progress(skip_current_image: bool = False, job_id: str | None = None) -> dict[str, Any]:
        job = _find(engine, job_id)
        if job is None or job.state.is_final:
            return _answer(0.0, 0.0, _state(None), None, "")
        done = max(_AT_WORK, job.step / job.steps if job.steps else job.done_bytes / max(job.all_bytes, 1))
        preview = None if skip_current_image else engine.preview(job.id)
        image = base64.b64encode(preview).decode("ascii") if preview else None
        return _answer(done, job.eta_seconds, _state(job), image, job.stage)

    @router.post("/interrupt")
    def interrupt() -> dict[str, Any]:
        engine.cancel_current()
        return {}

    @router.post("/skip")
    def skip() -> dict[str, Any]:
        job = engine.current()
        if job is not None and _num_batches(job) > 1:
            raise NotSupported("skip", "a job of several batches can only be interrupted as a whole. Use interrupt")
        engine.cancel_current()
        return {}

    return router


def _find(engine: Engine, job_id: str | None) -> JobView | None:
    """The job asked for, or the running one, or the one that is next."""
    if job_id is not None:
        try:
            return engine.job(job_id)
        except UnknownName as error:
            raise HTTPException(404, f"There is no job {job_id[:100]}.") from error
    return engine.current() or next((job for job in engine.jobs() if job.state is JobState.QUEUED), None)


def _num_batches(job: JobView) -> int:
    """Of jobs that make no pictures: one."""
    return job.request.batch_count if isinstance(job.request, GenerationRequest) else 1


def _answer(progress: float, eta: float, state: dict[str, Any], image: str | None, text: str) -> dict[str, Any]:
    return {
        "progress": min(progress, 1.0),
        "eta_relative": eta,
        "state": state,
        "current_image": image,
        "textinfo": text or None,
    }


def _state(job: JobView | None) -> dict[str, Any]:
    """A1111's state: its `job_no` is the batch, and a `job_count` of 0 means idle."""
    batches = _num_batches(job) if job else 0
    steps = job.steps // batches if job and batches else 0
    step = job.step if job else 0
    batch = min(step // steps, batches - 1) if steps else 0
    return {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": job.id if job else "",
        "job_count": batches,
        "job_timestamp": "0",
        "job_no": batch,
        "sampling_step": step - batch * steps,
        "sampling_steps": steps,
    }
