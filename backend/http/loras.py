"""LoRA files: what is known of them, notes and previews, and finding them by their hashes: /api/v1/loras."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import APIRouter

from backend.engine.engine import Engine
from backend.engine.library import LoraEntry
from backend.engine.lora_notes import read_notes
from backend.engine.lora_previews import find_preview


def loras_router(engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/api/v1/loras")

    @router.get("")
    def loras() -> dict[str, Any]:
        return {"loras": [_lora_json(engine, entry) for entry in engine.library.loras()]}

    return router


def _lora_json(engine: Engine, entry: LoraEntry) -> dict[str, Any]:
    """Notes win over what the file says of itself."""
    facts, notes = engine.library.lora_facts(entry), read_notes(entry.path)
    labels = {family.name: family.label for family in engine.catalog.families}
    preview = find_preview(entry.path, has_thumbnail=facts.has_thumbnail)
    return {
        "name": entry.name,
        "folder": entry.name.rpartition("/")[0],
        "file": entry.path.name,
        "alias": facts.alias,
        "title": facts.title,
        "family": facts.family,
        "family_label": labels.get(facts.family, facts.family),
        "problem": facts.problem,
        "size": entry.size,
        "modified": entry.modified,
        "sha256": entry.sha256,
        "autov3": entry.autov3,
        "formats": list(facts.formats),
        "rank": facts.ranks,
        "preview": preview and f"api/v1/loras/preview?name={quote(entry.name, safe='')}&v={preview.version}",
        "description": facts.description if notes.description is None else notes.description,
        "activation_text": facts.trigger_phrase if notes.activation_text is None else notes.activation_text,
        "negative_text": notes.negative_text or "",
        "preferred_weight": notes.preferred_weight or 0.0,
        "notes": notes.notes or "",
        "sd_version": notes.sd_version or "",
        "trained_tags": facts.trained_tags,
    }
