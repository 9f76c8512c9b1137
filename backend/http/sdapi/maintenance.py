"""Looking at the folders again, freeing memory, and how the server runs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from backend.engine.engine import Engine
from backend.http.security import Security
from backend.memory.device import free_host_bytes, total_host_bytes
from backend.memory.process_memory import resident_bytes


def maintenance_router(engine: Engine, security: Security) -> APIRouter:
    router = APIRouter()

    def refresh() -> dict[str, Any]:
        engine.library.refresh()
        engine.upscalers.refresh()
        return {}

    def free_memory() -> dict[str, Any]:
        engine.free_memory()
        return {}

    router.add_api_route("/refresh-checkpoints", refresh, methods=["POST"], name="refresh-checkpoints")
    router.add_api_route("/refresh-vae", refresh, methods=["POST"], name="refresh-vae")
    router.add_api_route("/unload-checkpoint", free_memory, methods=["POST"], name="unload-checkpoint")

    @router.post("/reload-checkpoint")
    def reload() -> dict[str, Any]:
        """Nothing to do: a model is loaded when it is used."""
        return {}

    @router.get("/memory")
    def memory() -> dict[str, Any]:
        """What the program takes of the machine's memory, and of the device's; A1111's clients show both."""
        total, used = total_host_bytes(), resident_bytes()
        ram = {"free": free_host_bytes(), "used": used, "total": total}
        return {"ram": ram, "cuda": {"error": "unavailable"} if engine.device.is_host else _device(engine)}

    @router.get("/cmd-flags")
    def flags() -> dict[str, Any]:
        """Nothing secret, and no folders."""
        settings = engine.settings
        return {
            "api": True,
            "listen": security.is_exposed,
            "port": security.port,
            "use_cpu": ["all"] if settings.force_cpu else [],
            "no_half": settings.full_precision,
            "lowvram": settings.low_memory,
        }

    return router


def _device(engine: Engine) -> dict[str, Any]:
    free, total = engine.device.free_bytes(), engine.device.total_bytes
    weights = {"current": engine.memory().used, "peak": engine.memory().used}
    system = {"free": free, "used": max(0, total - free), "total": total}
    return {"system": system, "active": weights, "allocated": weights, "reserved": weights}
