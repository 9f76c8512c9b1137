"""What the headers of LoRAs tell, remembered by path, size and time of change, also over a restart."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from backend import __version__
from backend.adapters.lora_facts import LoraFacts, lora_facts
from backend.errors import OutputError
from backend.weights.atomic import write_atomically

_READ_BY = f"{__version__} 1"  # the last number is for changes of what `lora_facts` finds between two versions
_LEAST_UNSAVED = 32  # files: writing down every single one would take more time than all of the headers
_UNSAVED_SHARE = 8

_log = logging.getLogger(__name__)


class LoraFactsCache:
    """Facts that were found before, kept in a JSON file. Losing the file costs time, nothing else.

    file: None to remember them until the program ends.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._facts = _read(file) if file else {}
        self._num_unsaved = 0

    def of(self, path: Path) -> LoraFacts:
        """What the header tells; every file has facts, and a problem where it cannot be used."""
        try:
            status = path.stat()
        except OSError as error:
            return LoraFacts(problem=f"{path.name}: it cannot be read ({error.strerror}).", formats={})
        state = f"{status.st_size}-{status.st_mtime_ns}"
        known = self._facts.get(str(path))
        if known and known[0] == state:
            return known[1]
        facts = lora_facts(path)
        with self._lock:
            self._facts[str(path)] = (state, facts)
            self._num_unsaved += 1
            is_much = self._num_unsaved >= max(_LEAST_UNSAVED, len(self._facts) // _UNSAVED_SHARE)
        if is_much:
            self.save()
        return facts

    def keep_only(self, paths: Collection[Path]) -> None:
        """Forget the files that are gone."""
        names = {str(path) for path in paths}
        with self._lock:
            gone = [name for name in self._facts if name not in names]
            for name in gone:
                del self._facts[name]
            self._num_unsaved += len(gone)

    def save(self) -> None:
        """Write down what was found since the last time. What could not be read is looked at again next time."""
        with self._lock:
            if self._file is None or not self._num_unsaved:
                return
            self._num_unsaved = 0
            files = {name: [state, asdict(facts)] for name, (state, facts) in self._facts.items() if facts.formats}
            try:
                write_atomically(self._file, json.dumps({"read_by": _READ_BY, "files": files}).encode())
            except OutputError as error:
                _log.warning("What LoRAs tell is not remembered for the next start: %s", error)


def _read(file: Path) -> dict[str, tuple[str, LoraFacts]]:
    try:
        content: Any = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("%s is not readable (%s); LoRAs are looked at anew", file, error)
        return {}
    match content:
        case {"read_by": read_by, "files": dict() as files} if read_by == _READ_BY:
            entries = cast("dict[str, Any]", files)
            return {name: known for name, entry in entries.items() if (known := _entry(entry)) is not None}
        case _:
            return {}


def _entry(entry: Any) -> tuple[str, LoraFacts] | None:
    match entry:
        case [
            str() as state,
            {
                "problem": str(), "family": str(), "alias": str(), "title": str(), "description": str(),
                "trigger_phrase": str(), "claimed_hash": str(), "has_thumbnail": bool(), "formats": dict(),
                "ranks": None | [int(), int()], "trained_tags": list(),
            } as found,
        ]:  # fmt: skip
            values = cast("dict[str, Any]", found)
        case _:
            return None
    tags, ranks = _tags(values["trained_tags"]), values["ranks"]
    if tags is None or values.keys() != LoraFacts.__dataclass_fields__.keys():
        return None
    facts: dict[str, Any] = {**values, "trained_tags": tags, "ranks": None if ranks is None else tuple(ranks)}
    return state, LoraFacts(**facts)


def _tags(found: list[Any]) -> tuple[tuple[str, int], ...] | None:
    tags: list[tuple[str, int]] = []
    for tag in found:
        match tag:
            case [str() as word, int() as count]:
                tags.append((word, count))
            case _:
                return None
    return tuple(tags)
