"""Stored recipes and the history of those that were used: /api/v1."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.exceptions import HTTPException

from backend.engine.engine import Engine
from backend.engine.library import CheckpointEntry
from backend.errors import RequestError, UnknownName
from backend.http.json_body import JsonObject
from backend.recipe import recipe_from


def recipes_router(engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/api/v1")

    def as_json(entry: CheckpointEntry) -> dict[str, Any]:
        recipe = entry.recipe
        assert recipe is not None
        return {
            "name": entry.name,
            "recipe": recipe.to_mapping(),
            "hash": recipe.hash,
            "problem": entry.problem,
            "modified": engine.recipes.modified(entry),
        }

    @router.get("/recipes")
    def recipes() -> list[dict[str, Any]]:
        return [as_json(entry) for entry in engine.recipes.entries()]

    @router.put("/recipes/{name:path}")
    def save(name: str, body: JsonObject) -> dict[str, Any]:
        """Write a recipe over one of this name."""
        if unknown := sorted(body.keys() - {"recipe"}):
            raise RequestError(unknown[0][:100], "is not known here. Known: recipe")
        return as_json(engine.save_recipe(name, recipe_from(body.get("recipe"))))

    @router.delete("/recipes/{name:path}")
    def remove(name: str) -> dict[str, Any]:
        try:
            engine.recipes.remove(name)
        except UnknownName as error:
            raise HTTPException(404, str(error)) from error
        return {}

    @router.get("/merge/history")
    def history() -> list[dict[str, Any]]:
        """Those that pictures were made with or that were saved, the newest first."""
        used = engine.history.newest_first()
        return [{"recipe": one.recipe.to_mapping(), "hash": one.recipe.hash, "time": one.time} for one in used]

    return router
