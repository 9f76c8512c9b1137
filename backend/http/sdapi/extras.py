"""POST extra-single-image and extra-batch-images: pictures made larger by jobs of our queue, waited for."""

from __future__ import annotations

import asyncio
import base64
import html
from collections.abc import Sequence

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import Request

from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView
from backend.engine.upscale_request import UpscaleRequest
from backend.http.errors import failed_job_answer
from backend.http.job_feed import JobFeed
from backend.http.json_body import JsonObject
from backend.http.sdapi.extras_body import ExtrasCall, read_extras
from backend.http.sdapi.job_waiting import ended_job, taken_files


def extras_router(engine: Engine, feed: JobFeed) -> APIRouter:
    router = APIRouter()

    def queue(call: ExtrasCall) -> str:
        pictures = tuple(engine.pictures.add(data, name).sha256 for name, data in call.files)
        return engine.submit(UpscaleRequest(pictures=pictures, **call.fields))

    async def answer(request: Request, call: ExtrasCall) -> tuple[JobView, list[str]]:
        job = await ended_job(request, engine, feed, await asyncio.to_thread(queue, call))
        files = await asyncio.to_thread(taken_files, job, keep=False)  # A1111 saves none of these either
        return job, [base64.b64encode(file).decode("ascii") for file in files]

    @router.post("/extra-single-image")
    async def single(request: Request, body: JsonObject) -> JSONResponse:
        call = await asyncio.to_thread(read_extras, body, engine.upscalers, is_batch=False)
        job, images = await answer(request, call)
        if job.state is JobState.FAILED:
            return failed_job_answer(job.error_kind, job.error)
        return JSONResponse({"html_info": _told(job, call.notices), "image": images[0] if images else ""})

    @router.post("/extra-batch-images")
    async def batch(request: Request, body: JsonObject) -> JSONResponse:
        call = await asyncio.to_thread(read_extras, body, engine.upscalers, is_batch=True)
        job, images = await answer(request, call)
        if job.state is JobState.FAILED:
            return failed_job_answer(job.error_kind, job.error)
        return JSONResponse({"html_info": _told(job, call.notices), "images": images})

    return router


def _told(job: JobView, notices: Sequence[str]) -> str:
    """What was done to the first picture, and what is to be told, as paragraphs of HTML."""
    texts = [*(image.infotext for image in job.images[:1]), *notices, *job.notices]
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts if text)
