"""A path that a client names, kept inside the folder it belongs to."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from backend.errors import RequestError

MAX_PART_BYTES = 180
MAX_BYTES = 1024
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff\\:*?"<>|]')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])( *\..*)?", re.IGNORECASE)


def safe_join(root: Path, asked: str) -> Path:
    """The real path of `asked` below `root`, whether it exists or not.

    Refused by RequestError: whatever leads out of `root`, links included, and names that mean something special on
    some system, so that the same names are good everywhere.
    """
    asked = unicodedata.normalize("NFC", asked)
    for part in asked.split("/"):
        _check_part(part)
    if len(asked.encode()) > MAX_BYTES:
        raise RequestError("path", f"has more than {MAX_BYTES} bytes")
    try:
        folder = root.resolve()
        path = (folder / asked).resolve()
    except (OSError, RuntimeError) as error:  # links that lead in a circle
        raise RequestError("path", "cannot be followed") from error
    if not path.is_relative_to(folder):
        raise RequestError("path", "leads out of its folder")
    return path


def _check_part(part: str) -> None:
    if part in ("", ".", ".."):
        raise RequestError("path", "has an empty part or one of dots")
    if _FORBIDDEN.search(part) or part[-1] in ". ":
        raise RequestError("path", "has a character that is not allowed in file names")
    if _RESERVED.fullmatch(part):
        raise RequestError("path", "has a name that Windows keeps for devices")
    if len(part.encode()) > MAX_PART_BYTES:
        raise RequestError("path", f"has a name of more than {MAX_PART_BYTES} bytes")
