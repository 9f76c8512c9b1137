"""The files of models that there are, and how a checkpoint is used: /api/v1."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastapi import APIRouter
from starlette.exceptions import HTTPException

from backend.engine.engine import Engine
from backend.engine.library import CheckpointEntry
from backend.engine.models import ModelFacts
from backend.errors import RequestError, UnknownName
from backend.merging.metadata import recipe_in


def models_router(engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/api/v1")

    @router.get("/checkpoints")
    def checkpoints() -> dict[str, Any]:
        return {"checkpoints": [_checkpoint_json(entry) for entry in engine.library.checkpoints()]}

    @router.get("/checkpoints/{name:path}")
    def checkpoint(name: str) -> dict[str, Any]:
        """What the header says of the one with this name, title or hash."""
        try:
            entry = engine.library.find_checkpoint(name)
        except UnknownName as error:
            raise HTTPException(404, str(error)) from error
        facts = engine.describe_checkpoint(entry.name)
        return {
            **_checkpoint_json(entry),
            "family_label": facts.family_label,
            "modelspec_title": facts.title,
            "usage_hint": facts.usage_hint,
            "licence": facts.licence,
            "recipe": _recipe_json(entry, facts),
            **dataclasses.asdict(facts.description),
        }

    @router.get("/vaes")
    def vaes() -> dict[str, Any]:
        entries = engine.library.vaes()
        return {"vaes": [{"name": entry.name, "latent_channels": entry.latent_channels} for entry in entries]}

    @router.get("/text-encoders")
    def text_encoders() -> dict[str, Any]:
        entries = engine.library.text_encoders()
        return {"text_encoders": [{"name": entry.name, "kind": entry.kind} for entry in entries]}

    @router.post("/models/refresh")
    def refresh() -> dict[str, Any]:
        """Look at the folders again."""
        engine.library.refresh()
        engine.upscalers.refresh()
        return {
            "checkpoints": len(engine.library.checkpoints()),
            "vaes": len(engine.library.vaes()),
            "text_encoders": len(engine.library.text_encoders()),
        }

    return router


def _recipe_json(entry: CheckpointEntry, facts: ModelFacts) -> dict[str, Any] | None:
    """What makes the model, or what its file says that it was made by."""
    try:
        recipe = entry.recipe or recipe_in(facts.metadata)
    except RequestError:  # of a newer version, or damaged
        return None
    return None if recipe is None else recipe.to_mapping()


def _checkpoint_json(entry: CheckpointEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.title,
        "family": entry.family,
        "problem": entry.problem,
        "size": entry.size,
        "sha256": entry.sha256,
        "is_recipe": entry.recipe is not None,
    }
