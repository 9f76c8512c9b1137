"""Looking at the folders again, freeing memory, and how the server runs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from backend.engine.engine import Engine
from backend.http.security import Security


def maintenance_router(engine: Engine, security: Security) -> APIRouter:
    router = APIRouter()

    def refresh() -> dict[str, Any]:
        engine.library.refresh()
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
        """The budget for weights, where it lies; A1111's clients look at both places."""
        report = engine.memory()
        weights = {"free": report.budget - report.used, "used": report.used, "total": report.budget}
        none = {"error": "unavailable"}
        if engine.device.is_host:
            return {"ram": weights, "cuda": none}
        return {"ram": none, "cuda": {"system": weights}}

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
