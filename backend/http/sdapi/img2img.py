"""POST /sdapi/v1/img2img: also inpainting."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import Request

from backend.engine.engine import Engine
from backend.http.job_feed import JobFeed
from backend.http.json_body import JsonObject
from backend.http.sdapi.generation import generation_answer
from backend.http.sdapi.img2img_body import read_img2img
from backend.http.sdapi.names import told_by_a1111_names


def img2img_router(engine: Engine, feed: JobFeed) -> APIRouter:
    router = APIRouter()

    @router.post("/img2img")
    async def img2img(request: Request, body: JsonObject) -> JSONResponse:
        with told_by_a1111_names():
            call = await asyncio.to_thread(read_img2img, body, engine.catalog, engine.library, engine.pictures)
        return await generation_answer(request, engine, feed, call, _without_pictures(body))

    return router


def _without_pictures(body: Mapping[str, Any]) -> dict[str, Any]:
    """What is sent back: pictures only when they are asked for."""
    if body.get("include_init_images") is True:
        return dict(body)
    return {**body, "init_images": None, "mask": None}
