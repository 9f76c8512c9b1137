"""Calls that answer when a job has ended."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request

from backend.engine.engine import Engine
from backend.engine.job import JobView
from backend.http.job_feed import JobFeed

_SECONDS_BETWEEN_LOOKS_AT_THE_CLIENT = 0.5


async def ended_job(request: Request, engine: Engine, feed: JobFeed, job_id: str) -> JobView:
    """The job once it has ended. It is cancelled when nobody waits for it any more."""
    with feed.watch() as watch:
        while not (job := engine.job(job_id)).state.is_final:
            if await request.is_disconnected():
                engine.cancel(job_id)
                raise HTTPException(499, "The client went away.")  # which hears this no more
            if watch.is_closed:
                raise HTTPException(503, "The server stops. The job is kept for the next start.")
            await watch.wait(_SECONDS_BETWEEN_LOOKS_AT_THE_CLIENT)
            watch.take()
        return job


def taken_files(job: JobView, *, keep: bool) -> list[bytes]:
    """The files of the job's pictures that are still there; with `keep` false they are removed, and only they."""
    paths = [image.path for image in job.images if image.path.exists()]
    files = [path.read_bytes() for path in paths]
    if not keep:
        for path in (*paths, *(image.before_hires for image in job.images if image.before_hires is not None)):
            path.unlink(missing_ok=True)
    return files
