"""What makes pictures larger, and jobs that do: /api/v1/upscalers, /api/v1/upscale."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from backend.engine.engine import Engine
from backend.engine.upscale_request import UpscaleRequest
from backend.engine.upscalers import UpscalerEntry
from backend.http.job_json import job_json
from backend.http.json_body import JsonObject


def upscaling_router(engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/api/v1")

    def listed() -> dict[str, Any]:
        found = engine.upscalers
        return {"upscalers": [_entry_json(entry) for entry in found.entries()], "default": found.default()}

    @router.get("/upscalers")
    def upscalers() -> dict[str, Any]:
        return listed()

    @router.get("/upscalers/details")
    def details(name: str) -> dict[str, Any]:
        """One of them, for which an old pickle file is converted if need be."""
        return _entry_json(engine.upscalers.look(name))

    @router.post("/upscalers/refresh")
    def refresh() -> dict[str, Any]:
        """Try again files that could not be used."""
        engine.upscalers.refresh()
        return listed()

    @router.post("/upscale", status_code=202)
    def upscale(body: JsonObject) -> dict[str, Any]:
        """Queue a job that makes stored pictures larger."""
        job_id = engine.submit(UpscaleRequest.from_mapping(body))
        return job_json(engine.job(job_id), engine.settings.output_dir)

    return router


def _entry_json(entry: UpscalerEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "label": entry.label,
        "scale": entry.scale,
        "kind": entry.kind.value,
        "file": entry.path.name if entry.path else None,
        "problem": entry.problem,
    }
