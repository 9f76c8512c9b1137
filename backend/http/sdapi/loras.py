"""LoRAs as A1111's clients know them: GET loras, POST refresh-loras."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from backend.adapters.lora_facts import THUMBNAIL, metadata_of
from backend.engine.engine import Engine

_PICTURES = (THUMBNAIL, "ssmd_cover_images")  # too long for a list, and nothing that a client shows
_MOST = 2**20  # characters of JSON in a value


def sdapi_loras_router(engine: Engine) -> APIRouter:
    router = APIRouter()
    library = engine.library

    @router.get("/loras")
    def loras() -> list[dict[str, Any]]:
        """Names are what a tag may hold. Paths begin in the folder of LoRAs: where that lies is nobody's business."""
        entries = [(entry, library.lora_facts(entry)) for entry in library.loras()]
        stems = Counter(entry.path.stem.casefold() for entry, _ in entries)
        return [
            {
                "name": entry.path.stem if stems[entry.path.stem.casefold()] == 1 else entry.name,
                "alias": facts.alias or entry.path.stem,
                "path": f"{entry.name}{entry.path.suffix}",
                "metadata": _parsed(metadata_of(entry.path)),
            }
            for entry, facts in entries
            if not facts.problem
        ]

    @router.post("/refresh-loras")
    def refresh() -> dict[str, Any]:
        library.refresh_loras()
        return {}

    return router


def _parsed(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Values that are JSON objects, as objects."""
    return {key: _value(text) for key, text in metadata.items() if key not in _PICTURES}


def _value(text: str) -> Any:
    if not text.startswith("{") or len(text) > _MOST:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
