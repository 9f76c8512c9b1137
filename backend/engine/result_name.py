"""Names for files that are made here, as users choose them."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from backend.errors import RequestError

_LONGEST = 180  # bytes of a part
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff\\:*?"<>|]')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])( *\..*)?", re.IGNORECASE)
_ENDINGS = (".safetensors", ".json")


def checked_name(field: str, value: Any) -> str:
    """A name without its ending, perhaps behind names of folders, that is good on every system. Raises RequestError."""
    if not isinstance(value, str) or not value.strip():
        raise RequestError(field, "must be a name for the file")
    name = unicodedata.normalize("NFC", value.strip())
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    for part in name.split("/"):
        if part in ("", ".", "..") or part[0] == "." or part[-1] in ". " or _FORBIDDEN.search(part):
            raise RequestError(
                field, f'"{name[:80]}" cannot be the name of a file; use letters, digits, spaces and "-_."'
            )
        if _RESERVED.fullmatch(part) or len(part.encode()) > _LONGEST:
            raise RequestError(field, f'"{part[:80]}" is too long, or a name that Windows keeps for devices')
    return name
