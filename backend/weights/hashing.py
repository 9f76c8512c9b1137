"""SHA-256 of weight files, remembered by path, size and time of change."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from pathlib import Path
from typing import Any, cast

from backend.errors import OutputError
from backend.weights.atomic import write_atomically

SHORT = 10  # hex digits of a checkpoint's hash in file lists and metadata, as A1111 shows them
SHORT_OF_TENSORS = 12  # of a LoRA's hash, as A1111 writes them into pictures

_BLOCK = 4 * 2**20
_FILE, _TENSORS = "sha256", "tensors"

_log = logging.getLogger(__name__)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def hashes_of_safetensors(path: Path) -> tuple[str, str]:
    """SHA-256 of the file, and of its tensors alone: all bytes behind the header, which is AutoV3. Raises OSError.

    The second stays what it is when the metadata are edited.
    """
    whole, tensors = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as file:
        length = file.read(8)
        whole.update(length)
        left = int.from_bytes(length, "little")  # of the header
        while block := file.read(_BLOCK):
            whole.update(block)
            tensors.update(memoryview(block)[min(left, len(block)) :])
            left -= min(left, len(block))
    return whole.hexdigest(), tensors.hexdigest()


class HashCache:
    """Hashes that were computed before, kept in a JSON file. Losing the file costs time, nothing else."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._hashes = _read(file)

    def known(self, path: Path) -> str | None:
        """The hash, if it was computed since the file last changed. Raises OSError when there is no file."""
        return self._known(path, _FILE)

    def known_of_tensors(self, path: Path) -> str | None:
        """Likewise that of a safetensors file's tensors alone."""
        return self._known(path, _TENSORS)

    def hash(self, path: Path) -> str:
        """The hash, computed now if it must be. Raises OSError when the file cannot be read."""
        if known := self.known(path):
            return known
        state, digest = _state(path), sha256_of(path)  # in this order: a file that changes meanwhile is hashed again
        self._remember(path, state, {_FILE: digest})
        return digest

    def hash_of_tensors(self, path: Path) -> str:
        """That of a safetensors file's tensors alone; the file's is computed on the way. Raises OSError."""
        if known := self.known_of_tensors(path):
            return known
        state, (whole, tensors) = _state(path), hashes_of_safetensors(path)
        self._remember(path, state, {_FILE: whole, _TENSORS: tensors})
        return tensors

    def keep_of_tensors(self, path: Path, digest: str) -> None:
        """Remember the hash of tensors that did not change when the file did. Raises OSError."""
        self._remember(path, _state(path), {_TENSORS: digest})

    def _known(self, path: Path, kind: str) -> str | None:
        entry = self._hashes.get(str(path))
        return entry.get(kind) if entry and entry["state"] == _state(path) else None

    def _remember(self, path: Path, state: str, digests: dict[str, str]) -> None:
        with self._lock:
            before = self._hashes.get(str(path), {})
            kept = before if before.get("state") == state else {}
            self._hashes[str(path)] = {**kept, "state": state, **digests}
            try:
                write_atomically(self._file, json.dumps(self._hashes, indent=1).encode())
            except OutputError as error:
                _log.warning("The hash of %s is not remembered for the next start: %s", path.name, error)


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
    values = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
    return "state" in values and all(isinstance(value, str) for value in values.values())
