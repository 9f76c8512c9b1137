"""What POST txt2img and img2img have in common: a job of our queue, waited for."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse
from starlette.requests import Request

from backend.engine.engine import Engine
from backend.engine.job import JobState
from backend.http.errors import failed_job_answer
from backend.http.job_feed import JobFeed
from backend.http.sdapi.generation_body import GenerationCall
from backend.http.sdapi.generation_info import generation_info
from backend.http.sdapi.job_waiting import ended_job, taken_files
from backend.http.sdapi.names import told_by_a1111_names


async def generation_answer(
    request: Request, engine: Engine, feed: JobFeed, call: GenerationCall, parameters: Mapping[str, Any]
) -> JSONResponse:
    """Queue it and wait. parameters: the body as it is sent back. Raises as `Engine.submit` does, by A1111's names."""
    with told_by_a1111_names():
        job_id = await asyncio.to_thread(engine.submit, call.request)
    job = await ended_job(request, engine, feed, job_id)
    if job.state is JobState.FAILED:
        return failed_job_answer(job.error_kind, job.error)
    files = await asyncio.to_thread(taken_files, job, keep=call.save_images)
    info = generation_info(job, call.notices)
    images = [base64.b64encode(file).decode("ascii") for file in files] if call.send_images else []
    return JSONResponse({"images": images, "parameters": parameters, "info": info})
