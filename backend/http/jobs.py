"""Jobs and what happens to them: /api/v1."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

from backend.engine.engine import Engine
from backend.engine.job import JobView
from backend.errors import UnknownName
from backend.http.job_feed import JobFeed
from backend.http.job_json import job_json
from backend.http.json_body import JsonObject
from backend.request import GenerationRequest

MIN_SECONDS_BETWEEN_MESSAGES = 0.1
MAX_SECONDS_OF_SILENCE = 15.0


def jobs_router(engine: Engine, feed: JobFeed) -> APIRouter:
    router = APIRouter(prefix="/api/v1")

    def as_json(job: JobView) -> dict[str, Any]:
        return job_json(job, engine.settings.output_dir)

    def find(job_id: str) -> JobView:
        try:
            return engine.job(job_id)
        except UnknownName as error:
            raise HTTPException(404, f"There is no job {job_id[:100]}; it may have been too long ago.") from error

    def message(jobs: Sequence[JobView], *, is_complete: bool) -> str:
        content = {"is_complete": is_complete, "jobs": [as_json(job) for job in jobs]}
        return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"

    @router.post("/jobs", status_code=202)
    def submit(body: JsonObject) -> dict[str, Any]:
        return as_json(engine.job(engine.submit(GenerationRequest.from_mapping(body))))

    @router.get("/jobs")
    def list_jobs() -> dict[str, Any]:
        return {"jobs": [as_json(job) for job in engine.jobs()]}

    @router.get("/jobs/{job_id}")
    def show(job_id: str) -> dict[str, Any]:
        return as_json(find(job_id))

    @router.delete("/jobs/{job_id}")
    def cancel(job_id: str) -> dict[str, Any]:
        engine.cancel(find(job_id).id)
        return as_json(find(job_id))

    @router.get("/jobs/{job_id}/preview.jpg")
    def preview(job_id: str) -> Response:
        jpeg = engine.preview(find(job_id).id)
        if jpeg is None:
            raise HTTPException(404, "There is no preview of this job.")
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    async def happenings() -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        with feed.watch() as watch:
            yield message(engine.jobs(), is_complete=True)
            while not watch.is_closed:
                sent = loop.time()
                await watch.wait(MAX_SECONDS_OF_SILENCE)
                await asyncio.sleep(max(0.0, sent + MIN_SECONDS_BETWEEN_MESSAGES - loop.time()))
                changed = [job for job_id in watch.take() if (job := known(job_id)) is not None]
                yield message(changed, is_complete=False) if changed else ": still here\n\n"

    def known(job_id: str) -> JobView | None:
        """None for one that has been forgotten meanwhile."""
        try:
            return engine.job(job_id)
        except UnknownName:
            return None

    @router.get("/events")
    async def events() -> StreamingResponse:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(happenings(), media_type="text/event-stream", headers=headers)

    return router
