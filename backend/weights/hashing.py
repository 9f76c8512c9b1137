"""SHA-256 of weight files, remembered by path, size and time of change."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from pathlib import Path
from typing import Any

from backend.errors import OutputError
from backend.weights.atomic import write_atomically

SHORT = 10  # hex digits of a checkpoint's hash in file lists and metadata, as A1111 shows them

_log = logging.getLogger(__name__)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(4 * 2**20):
            digest.update(block)
    return digest.hexdigest()


class HashCache:
    """Hashes that were computed before, kept in a JSON file. Losing the file costs time, nothing else."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._hashes = _read(file)

    def known(self, path: Path) -> str | None:
        """The hash, if it was computed since the file last changed. Raises OSError when there is no file."""
        entry = self._hashes.get(str(path))
        return entry["sha256"] if entry and entry["state"] == _state(path) else None

    def hash(self, path: Path) -> str:
        """The hash, computed now if it must be. Raises OSError when the file cannot be read."""
        if known := self.known(path):
            return known
        state, digest = _state(path), sha256_of(path)  # in this order: a file that changes meanwhile is hashed again
        with self._lock:
            self._hashes[str(path)] = {"state": state, "sha256": digest}
            try:
                write_atomically(self._file, json.dumps(self._hashes, indent=1).encode())
            except OutputError as error:
                _log.warning("The hash of %s is not remembered for the next start: %s", path.name, error)
        return digest


def _state(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def _read(file: Path) -> dict[str, dict[str, str]]:
    try:
        content: Any = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("%s is not readable (%s); hashes are computed anew", file, error)
        return {}
    entries: dict[Any, Any] = content if isinstance(content, dict) else {}
    return {path: entry for path, entry in entries.items() if _is_entry(entry)}


def _is_entry(entry: Any) -> bool:
    match entry:
        case {"state": str(), "sha256": str()}:
            return True
        case _:
            return False
