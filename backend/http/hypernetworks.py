"""Hypernetworks over HTTP: GET /api/v1/hypernetworks."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from backend.engine.engine import Engine


def hypernetworks_router(engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/api/v1")

    @router.get("/hypernetworks")
    def hypernetworks() -> dict[str, Any]:
        """Every file by its name. None is read: whether one fits a model is said when a prompt asks for it."""
        entries = engine.hypernetworks.entries()
        return {"hypernetworks": [{"name": entry.name, "file": entry.path.name} for entry in entries]}

    return router
