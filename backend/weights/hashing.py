"""SHA-256 of weight files, remembered by path, size and time of change."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

from backend.weights.atomic import write_atomically

SHORT = 10  # hex digits of a checkpoint's hash in file lists and metadata, as A1111 shows them


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
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
        """The hash, if it was computed since the file last changed."""
        entry = self._hashes.get(str(path))
        return entry["sha256"] if entry and entry["state"] == _state(path) else None

    def hash(self, path: Path) -> str:
        """The hash, computed now if it must be. Raises OSError when the file cannot be read."""
        if known := self.known(path):
            return known
        state, digest = _state(path), sha256_of(path)
        with self._lock:
            self._hashes[str(path)] = {"state": state, "sha256": digest}
            write_atomically(self._file, json.dumps(self._hashes, indent=1).encode())
        return digest


def _state(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def _read(file: Path) -> dict[str, dict[str, str]]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return {path: entry for path, entry in content.items() if isinstance(entry, dict) and {"state", "sha256"} <= entry.keys()}
