"""Textual inversions over HTTP: GET /api/v1/embeddings, and what A1111's clients ask for."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from backend.engine.embedding_files import EmbeddingEntry, StoredEmbedding
from backend.engine.engine import Engine
from backend.errors import EmulsionError


def embeddings_router(engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/api/v1")

    @router.get("/embeddings")
    def embeddings() -> dict[str, Any]:
        """Every file, read: a pickle is converted the first time."""
        return {"embeddings": [_json(engine, entry) for entry in engine.embeddings.entries()]}

    return router


def sdapi_embeddings_router(engine: Engine) -> APIRouter:
    router = APIRouter()

    @router.get("/embeddings")
    def embeddings() -> dict[str, Any]:
        """Those that the current model reads, and those that it does not."""
        loaded: dict[str, Any] = {}
        skipped: dict[str, Any] = {}
        for entry in engine.embeddings.entries():
            stored = _read(engine, entry)
            is_loaded = isinstance(stored, StoredEmbedding) and engine.is_read_now(stored.inversion)
            (loaded if is_loaded else skipped)[entry.name] = _a1111_json(stored)
        return {"loaded": loaded, "skipped": skipped}

    @router.post("/refresh-embeddings")
    def refresh() -> dict[str, Any]:
        """Nothing to do: the folders are looked at whenever a prompt is read."""
        return {}

    return router


def _read(engine: Engine, entry: EmbeddingEntry) -> StoredEmbedding | EmulsionError:
    try:
        return engine.embeddings.read(entry)
    except EmulsionError as error:
        return error


def _json(engine: Engine, entry: EmbeddingEntry) -> dict[str, Any]:
    stored = _read(engine, entry)
    if not isinstance(stored, StoredEmbedding):
        return {"name": entry.name, "file": entry.path.name, "problem": str(stored)}
    inversion = stored.inversion
    return {
        "name": entry.name,
        "file": entry.path.name,
        "problem": "",
        "vectors": inversion.num_vectors,
        "width": inversion.width,
        "made_for": inversion.made_for,
        "is_read": engine.is_read_now(inversion),
        "sha256": inversion.file_hash,
        "step": stored.step,
        "checkpoint": stored.checkpoint,
    }


def _a1111_json(stored: StoredEmbedding | EmulsionError) -> dict[str, Any]:
    if not isinstance(stored, StoredEmbedding):
        return {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": 0, "vectors": 0}
    return {
        "step": stored.step,
        "sd_checkpoint": stored.checkpoint_hash,
        "sd_checkpoint_name": stored.checkpoint,
        "shape": stored.inversion.width,
        "vectors": stored.inversion.num_vectors,
    }
