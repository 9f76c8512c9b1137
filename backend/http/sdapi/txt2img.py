"""POST /sdapi/v1/txt2img."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import Request

from backend.engine.engine import Engine
from backend.http.job_feed import JobFeed
from backend.http.json_body import JsonObject
from backend.http.sdapi.generation import generation_answer
from backend.http.sdapi.names import told_by_a1111_names
from backend.http.sdapi.txt2img_body import read_txt2img


def txt2img_router(engine: Engine, feed: JobFeed) -> APIRouter:
    router = APIRouter()

    @router.post("/txt2img")
    async def txt2img(request: Request, body: JsonObject) -> JSONResponse:
        with told_by_a1111_names():
            call = read_txt2img(body, engine.catalog, engine.library)
        return await generation_answer(request, engine, feed, call, body)

    return router
