"""LoRA files: what is known of them, notes, previews and metadata, and finding them by their hashes: /api/v1/loras."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import quote

from fastapi import APIRouter, Header
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from backend.adapters.lora_facts import metadata_of
from backend.adapters.report import AdapterReport
from backend.engine.engine import Engine
from backend.engine.library import LoraEntry
from backend.engine.lora_notes import FIELDS, read_notes, write_notes
from backend.engine.lora_previews import LoraPreview, find_preview, set_preview
from backend.errors import FileError, RequestError
from backend.http.json_body import JsonObject
from backend.http.thumbnails import Thumbnails
from backend.merging.block_layout import BlockLayout
from backend.merging.layouts import layout_of, network_blocks
from backend.merging.lora_block_weights import block_weights
from backend.merging.lora_presets import BUILTIN as PRESETS
from backend.merging.number_lists import BASE
from backend.recipe import weights_mapping

_LIST_LENGTHS = range(1, 128)
_HEADERS = {
    "Cache-Control": "private, no-cache",  # asked for again each time, and answered without the picture by its ETag
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
}


def loras_router(engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/api/v1/loras")
    library = engine.library
    thumbnails = Thumbnails()

    @router.get("")
    def loras() -> dict[str, Any]:
        return {"loras": [_lora_json(engine, entry) for entry in library.loras()]}

    @router.get("/details")
    def details(name: str) -> dict[str, Any]:
        """The same of one file, with all that its header says."""
        entry = library.find_lora(name)
        return {**_lora_json(engine, entry), "metadata": metadata_of(entry.path)}

    @router.get("/report")
    def report(name: str, checkpoint: str | None = None) -> dict[str, Any]:
        """A LoRA beside a checkpoint, or beside the one that requests get which name none."""
        return _report_json(engine.adapter_report(name, checkpoint or None))

    @router.put("/notes")
    def save_notes(body: JsonObject) -> dict[str, Any]:
        """Write those that are named into the file beside the LoRA."""
        _check_known(body, ("name", *FIELDS))
        entry = library.find_lora(_text(body, "name"))
        write_notes(entry.path, {field: value for field, value in body.items() if field != "name"})
        return _lora_json(engine, entry)

    @router.put("/metadata")
    def save_metadata(body: JsonObject) -> dict[str, Any]:
        """Change entries of the file's header; null removes one."""
        _check_known(body, ("name", "metadata"))
        entry = library.find_lora(_text(body, "name"))
        changes = _changes(body.get("metadata"))
        _refuse_in_use(engine, entry)
        metadata = library.edit_lora_metadata(entry, changes)
        return {**_lora_json(engine, library.find_lora(entry.name)), "metadata": metadata}

    @router.get("/preview")
    def preview(name: str, if_none_match: str = Header(default="")) -> Response:
        """The picture of a LoRA as WebP."""
        found = _preview(engine, library.find_lora(name))
        if found is None:
            raise HTTPException(404, "There is no preview of this LoRA.")
        headers = {**_HEADERS, "ETag": f'"{found.version}"'}
        if headers["ETag"] in if_none_match:
            return Response(status_code=304, headers=headers)
        try:
            webp = thumbnails.made_of((found.file, found.version), found.read, found.file.name)
        except (FileError, OSError) as error:
            raise HTTPException(404, f"The preview cannot be opened: {error}") from error
        return Response(webp, media_type="image/webp", headers=headers)

    @router.put("/preview")
    def save_preview(body: JsonObject) -> dict[str, Any]:
        """Take a finished picture of a job as the preview."""
        _check_known(body, ("name", "job", "index"))
        entry = library.find_lora(_text(body, "name"))
        images = engine.job(_text(body, "job")).images
        index = body.get("index", 0)
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(images):
            raise RequestError("index", f"must be that of one of the job's {len(images)} pictures, counted from 0")
        try:
            set_preview(entry.path, images[index].path)
        except OSError as error:
            raise RequestError("index", "is that of a picture that is no longer there") from error
        return _lora_json(engine, entry)

    @router.post("/find")
    def find(body: JsonObject) -> dict[str, Any]:
        """The name of the file with a hash, in whole or its first digits. Files are hashed until one fits."""
        _check_known(body, ("hash",))
        return {"name": library.find_lora_by_hash(_text(body, "hash")).name}

    @router.post("/block-weights")
    def weights(body: JsonObject) -> dict[str, Any]:
        """Read factors by block as they stand in a prompt, for a checkpoint."""
        _check_known(body, ("text", "elemental", "checkpoint"))
        model = engine.made_checkpoint(_text(body, "checkpoint"))
        layout = layout_of(model.family.name, model.source.keys())
        read = block_weights(_text(body, "text", ""), _text(body, "elemental", ""), layout)
        return {"weights": weights_mapping(read)}

    @router.get("/block-presets")
    def presets(checkpoint: str) -> dict[str, Any]:
        """Lengths of lists that are read for a checkpoint, what each number of its own is for, and its presets."""
        model = engine.made_checkpoint(checkpoint)
        layout = layout_of(model.family.name, model.source.keys())
        return {
            "lengths": [length for length in _LIST_LENGTHS if _is_read(("1",) * length, layout)],
            "blocks": [BASE, *network_blocks(layout)],
            "presets": [
                {"name": preset.name, "values": list(preset.numbers)}
                for preset in PRESETS
                if _is_read([f"{number:g}" for number in preset.numbers], layout)
            ],
        }

    return router


def _lora_json(engine: Engine, entry: LoraEntry) -> dict[str, Any]:
    """Notes win over what the file says of itself."""
    facts, notes = engine.library.lora_facts(entry), read_notes(entry.path)
    labels = {family.name: family.label for family in engine.catalog.families}
    preview = _preview(engine, entry)
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


def _preview(engine: Engine, entry: LoraEntry) -> LoraPreview | None:
    return find_preview(entry.path, has_thumbnail=engine.library.lora_facts(entry).has_thumbnail)


def _report_json(report: AdapterReport) -> dict[str, Any]:
    components = {
        name: [report.matched.get(name, 0), report.totals.get(name, 0)] for name in {**report.totals, **report.matched}
    }
    return {
        "family": report.family,
        "trained_for": report.trained_for,
        "matched": report.num_matched,
        "total": report.num_modules,
        "components": components,
        "unmatched": [{"module": found.module, "reason": found.reason.value} for found in report.unmatched],
        "formats": dict(report.formats),
        "ranks": report.ranks,
        "alphas": report.alphas,
        "notices": list(report.notices()),
        "problem": _problem(report),
    }


def _problem(report: AdapterReport) -> str:
    try:
        report.require_fit()
    except FileError as error:
        return str(error)
    return ""


def _is_read(numbers: Sequence[str], layout: BlockLayout) -> bool:
    try:
        block_weights(",".join(numbers), "", layout)
    except RequestError:
        return False
    return True


def _refuse_in_use(engine: Engine, entry: LoraEntry) -> None:
    """A job that runs reads from the file, which must stay as it was when it began. Other jobs begin with the new one.

    Prompts name files in many ways, so that whatever may mean the file counts.
    """
    job = engine.current()
    if job is None:
        return
    request = json.dumps(job.request.to_mapping(), ensure_ascii=False).casefold()
    names = (
        entry.path.stem,
        engine.library.lora_facts(entry).alias,
        *(d[:8] for d in (entry.sha256, entry.autov3) if d),
    )
    if any(name and name.casefold() in request for name in names):
        raise RequestError("name", f"{entry.name} may be in use by the job that runs. Wait until it has ended")


def _changes(value: Any) -> dict[str, str | None]:
    if not isinstance(value, dict) or not value:
        raise RequestError("metadata", "must be an object of names and texts, of which null removes one")
    for key, text in cast("dict[str, Any]", value).items():
        if text is not None and not isinstance(text, str):
            raise RequestError(f"metadata.{key:.100}", f"must be text or null, not {text!r:.60}")
    return cast("dict[str, str | None]", value)


def _check_known(body: dict[str, Any], known: Sequence[str]) -> None:
    if unknown := sorted(body.keys() - set(known)):
        raise RequestError(unknown[0][:100], f"is not known here. Known: {', '.join(known)}")


def _text(body: dict[str, Any], name: str, default: str | None = None) -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        raise RequestError(name, f"must be text, not {value!r:.60}")
    return value
