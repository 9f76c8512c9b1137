"""What the user writes about a LoRA, in the JSON file beside it that A1111 and Forge read and write."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from backend.errors import BadCheckpoint, RequestError
from backend.recipe import HIGHEST, LOWEST
from backend.weights.atomic import write_atomically

MAX_BYTES = 4 * 2**20  # other programs keep all that a web site says of the file in there
MAX_TEXT = 65_536  # characters

# field -> A1111's key
_TEXTS = {
    "description": "description",
    "sd_version": "sd version",
    "activation_text": "activation text",
    "negative_text": "negative text",
    "notes": "notes",
}
_WEIGHT = "preferred weight"
FIELDS = (*_TEXTS, "preferred_weight")


@dataclass(frozen=True, kw_only=True)
class LoraNotes:
    """None for what nobody wrote down. preferred_weight: 0 for none, as A1111 has it."""

    description: str | None = None
    sd_version: str | None = None
    activation_text: str | None = None
    negative_text: str | None = None
    notes: str | None = None
    preferred_weight: float | None = None


def read_notes(lora: Path) -> LoraNotes:
    """The notes beside a LoRA's file; none where there is no file with any, or one that cannot be read."""
    try:
        content = _content(notes_file(lora))
    except BadCheckpoint:
        return LoraNotes()
    texts = {field: _text(content.get(key)) for field, key in _TEXTS.items()}
    return LoraNotes(**texts, preferred_weight=_weight(content.get(_WEIGHT)))


def write_notes(lora: Path, changes: Mapping[str, Any]) -> None:
    """Write fields of LoraNotes; the others, and what else is in the file, stay.

    Raises RequestError for a wrong value, BadCheckpoint where another kind of file has that name, and OutputError.
    """
    path = notes_file(lora)
    content = _content(path)
    for field, value in changes.items():
        content |= {_WEIGHT: _checked_weight(value)} if field == "preferred_weight" else _checked_text(field, value)
    write_atomically(path, json.dumps(content, indent=4).encode())


def notes_file(lora: Path) -> Path:
    return lora.with_name(f"{lora.stem}.json")


def _content(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadCheckpoint(path, f"it has more than {MAX_BYTES:,} bytes, too many for notes. Rename it.")
        content: Any = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise BadCheckpoint(path, f"the notes in it cannot be read ({error}). Rename or remove it.") from error
    if not isinstance(content, dict):
        raise BadCheckpoint(path, "it holds no notes, which are a JSON object. Rename it.")
    return cast("dict[str, Any]", content)


def _text(value: Any) -> str | None:
    return value[:MAX_TEXT] if isinstance(value, str) else None


def _weight(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and LOWEST <= value <= HIGHEST else None


def _checked_text(field: str, value: Any) -> dict[str, str]:
    if field not in _TEXTS:
        raise RequestError(field[:100], f"is not known here. Known: {', '.join(FIELDS)}")
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise RequestError(field, f"must be text of at most {MAX_TEXT:,} characters")
    return {_TEXTS[field]: value}


def _checked_weight(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise RequestError("preferred_weight", f"must be a number, not {value!r:.60}")
    if not LOWEST <= value <= HIGHEST:
        raise RequestError("preferred_weight", f"{value:g} is outside {LOWEST:g} to {HIGHEST:g}")
    return float(value)
