"""POST /sdapi/v1/txt2img: a job of our queue, waited for."""

from __future__ import annotations

import asyncio
import base64

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import Request

from backend.engine.engine import Engine
from backend.engine.job import JobState
from backend.http.errors import failed_job_answer
from backend.http.job_feed import JobFeed
from backend.http.json_body import JsonObject
from backend.http.sdapi.generation_info import generation_info
from backend.http.sdapi.job_waiting import ended_job, taken_files
from backend.http.sdapi.names import told_by_a1111_names
from backend.http.sdapi.txt2img_body import read_txt2img


def txt2img_router(engine: Engine, feed: JobFeed) -> APIRouter:
    router = APIRouter()

    @router.post("/txt2img")
    async def txt2img(request: Request, body: JsonObject) -> JSONResponse:
        with told_by_a1111_names():
            call = read_txt2img(body, engine.catalog, engine.library)
            job_id = await asyncio.to_thread(engine.submit, call.request)
        job = await ended_job(request, engine, feed, job_id)
        if job.state is JobState.FAILED:
            return failed_job_answer(job.error_kind, job.error)
        files = await asyncio.to_thread(taken_files, job, keep=call.save_images)
        info = generation_info(job, call.notices)
        images = [base64.b64encode(file).decode("ascii") for file in files] if call.send_images else []
        return JSONResponse({"images": images, "parameters": body, "info": info})

    return router
