"""What is in memory, whether a job would fit, and the settings that concern both: /api/v1."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request

from backend.engine.engine import Engine, MemoryReport
from backend.engine.fit import FitReport
from backend.engine.preferences import Preferences
from backend.errors import EmulsionError, RequestError
from backend.http.json_body import JsonObject
from backend.memory.device import free_host_bytes, total_host_bytes
from backend.memory.process_memory import resident_bytes
from backend.request import GenerationRequest

_NOTHING = FitReport(fits=False, text="", weights=0, streamed=0, working=0, budget=0)
_PREFERENCES = frozenset(field.name for field in dataclasses.fields(Preferences))


def memory_router(engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/api/v1")

    @router.get("/memory")
    def memory() -> dict[str, Any]:
        return _memory_json(engine.memory(), engine)

    @router.post("/memory/unload")
    def unload() -> dict[str, Any]:
        """Let go of all weights; a running job keeps what it uses."""
        engine.free_memory()
        return _memory_json(engine.memory(), engine)

    one_at_a_time = asyncio.Lock()

    @router.post("/fit")
    async def fit(request: Request, body: JsonObject) -> dict[str, Any]:
        """Whether a request would fit, by the headers of its files and a calculation: nothing is loaded.

        A request that would be refused is no error here, so that a form can ask while it is filled in. A calculation
        takes seconds when a size is new; those that nobody waits for any more are left out.
        """
        async with one_at_a_time:
            if await request.is_disconnected():
                raise HTTPException(499, "The client went away.")
            return await asyncio.to_thread(_fit_json, engine, body)

    @router.get("/preferences")
    def preferences() -> dict[str, Any]:
        return dataclasses.asdict(engine.preferences)

    @router.post("/preferences")
    def change_preferences(body: JsonObject) -> dict[str, Any]:
        """Change those that the body names; the answer is all of them."""
        for name in body:
            if name not in _PREFERENCES:
                raise RequestError(name[:100], f"is no preference. Known: {', '.join(sorted(_PREFERENCES))}")
        return dataclasses.asdict(engine.change_preferences(**body))

    return router


def _fit_json(engine: Engine, body: dict[str, Any]) -> dict[str, Any]:
    try:
        return {**dataclasses.asdict(engine.will_it_fit(GenerationRequest.from_mapping(body))), "problem": ""}
    except EmulsionError as error:
        return {**dataclasses.asdict(_NOTHING), "problem": str(error)}


def _memory_json(report: MemoryReport, engine: Engine) -> dict[str, Any]:
    machine = {"total": total_host_bytes(), "free": free_host_bytes(), "process": resident_bytes()}
    return {
        **dataclasses.asdict(report),
        "is_host": engine.device.is_host,
        "total": engine.device.total_bytes,
        "machine": machine,
        "idle_unload_minutes": engine.preferences.idle_unload_minutes,
        "compile_networks": engine.preferences.compile_networks,
    }
