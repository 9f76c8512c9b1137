"""POST /sdapi/v1/txt2img: a job of our queue, waited for."""

from __future__ import annotations

import asyncio
import base64

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView
from backend.http.errors import failed_job_answer
from backend.http.job_feed import JobFeed
from backend.http.json_body import JsonObject
from backend.http.sdapi.generation_info import generation_info
from backend.http.sdapi.names import told_by_a1111_names
from backend.http.sdapi.txt2img_body import read_txt2img

_SECONDS_BETWEEN_LOOKS_AT_THE_CLIENT = 0.5


def txt2img_router(engine: Engine, feed: JobFeed) -> APIRouter:
    router = APIRouter()

    @router.post("/txt2img")
    async def txt2img(request: Request, body: JsonObject) -> JSONResponse:
        with told_by_a1111_names():
            call = read_txt2img(body, engine.catalog, engine.library)
            job_id = await asyncio.to_thread(engine.submit, call.request)
        job = await _ended(request, engine, feed, job_id)
        if job.state is JobState.FAILED:
            return failed_job_answer(job.error_kind, job.error)
        files = await asyncio.to_thread(_take_files, job, keep=call.save_images)
        info = generation_info(job, call.notices)
        images = [base64.b64encode(file).decode("ascii") for file in files] if call.send_images else []
        return JSONResponse({"images": images, "parameters": body, "info": info})

    return router


async def _ended(request: Request, engine: Engine, feed: JobFeed, job_id: str) -> JobView:
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


def _take_files(job: JobView, *, keep: bool) -> list[bytes]:
    """The files of the job's pictures that are still there; with `keep` false they are removed, and only they."""
    paths = [image.path for image in job.images if image.path.exists()]
    files = [path.read_bytes() for path in paths]
    if not keep:
        for path in paths:
            path.unlink(missing_ok=True)
    return files
