"""LoRA files below their folders: what they are called, what their headers tell, and their hashes."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backend.adapters.lora_facts import LoraFacts
from backend.engine.lora_facts_cache import LoraFactsCache
from backend.errors import AmbiguousName, UnknownName
from backend.weights.hashing import HashCache
from backend.weights.metadata_editing import edit_metadata

READ = (".safetensors", ".sft")
OTHERS = (".gguf", ".ckpt", ".pt", ".pth", ".bin")  # LoRAs have these endings, too; they are listed with their problem
_HASH = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True, kw_only=True)
class LoraEntry:
    """name: file name without its ending, with the folder it lies in. size: bytes. modified: seconds since 1970.

    sha256: of the file; autov3: of its tensors alone; None until they were computed.
    """

    name: str
    path: Path
    size: int = 0
    modified: float = 0.0
    sha256: str | None = None
    autov3: str | None = None


class LoraLibrary:
    """The files as they were at the last look. A header is read when it is first asked for, and when it changed."""

    def __init__(self, folders: Sequence[Path], hashes: HashCache, facts: LoraFactsCache) -> None:
        self._folders = tuple(folders)
        self._hashes = hashes
        self._entries: tuple[LoraEntry, ...] = ()
        self._facts = facts
        self._editing = threading.Lock()
        self._hashing = threading.Lock()  # two that look for a hash compute each file's once

    def refresh(self) -> None:
        """Look at the folders again."""
        entries = sorted(_listed(self._folders), key=lambda entry: entry.name.casefold())
        self._facts.keep_only([entry.path for entry in entries])
        self._facts.save()
        self._entries = tuple(entries)

    def entries(self) -> list[LoraEntry]:
        """As they are by now, with the hashes that are known."""
        return [self._as_it_is(entry) for entry in self._entries]

    def facts(self, entry: LoraEntry) -> LoraFacts:
        """What the header tells; every file has facts, and a problem where it cannot be used."""
        return self._facts.of(entry.path)

    def find(self, name: str) -> LoraEntry:
        """By name, with or without folder and ending, by path, by the start of a hash that is known, or by alias.

        "#" in front says that it is a hash. Raises UnknownName, and AmbiguousName for what several files are called.
        """
        asked = name.strip().replace("\\", "/")
        digits = asked.removeprefix("#").lower()
        found = [] if asked.startswith("#") else self._called(asked)
        if not found and _HASH.fullmatch(digits):
            found = _without_copies(self._with_hash(digits) or self._claiming(digits))
        if not found and not asked.startswith("#"):
            found = [entry for entry in self._entries if self.facts(entry).alias.casefold() == asked.casefold() != ""]
        return self._as_it_is(self._only(name, found))

    def find_by_hash(self, digits: str) -> LoraEntry:
        """By 8 to 64 hex digits of a hash, for which files are hashed until one fits. Raises as `find` does."""
        digits = digits.strip().removeprefix("#").lower()
        if not _HASH.fullmatch(digits):
            return self._only(digits, [])
        with self._hashing:
            found = self._with_hash(digits)
            claiming = self._claiming(digits)  # most likely says the truth, so it is hashed first
            for entry in (*claiming, *self._entries):
                if found:
                    break
                if not self._as_it_is(entry).autov3 and not self.facts(entry).problem:
                    with suppress(OSError):
                        self._hashes.hash_of_tensors(entry.path)
                    found = self._with_hash(digits)
        return self._as_it_is(self._only(digits, _without_copies(found or claiming)))

    def hash(self, entry: LoraEntry) -> str:
        """SHA-256 of its tensors alone, which A1111 writes into pictures: AutoV3. Raises OSError."""
        return self._hashes.hash_of_tensors(entry.path)

    def edit_metadata(self, entry: LoraEntry, changes: Mapping[str, str | None]) -> dict[str, str]:
        """As the function of that name does; the hash of the tensors is still known afterwards."""
        with self._editing:
            before = self._as_it_is(entry).autov3
            metadata = edit_metadata(entry.path, changes)
            with suppress(OSError):  # gone since
                if before is not None:
                    self._hashes.keep_of_tensors(entry.path, before)
            return metadata

    def _called(self, asked: str) -> list[LoraEntry]:
        """What is called so most exactly."""
        folded = asked.casefold()
        fits: tuple[Callable[[str], bool], ...] = (
            lambda name: name == asked,
            lambda name: name.casefold() == folded,
            lambda name: f"/{name}".endswith(f"/{asked}"),
            lambda name: f"/{name}".casefold().endswith(f"/{folded}"),
        )
        for is_called in fits if asked else ():
            if found := [entry for entry in self._entries if any(map(is_called, _names(entry)))]:
                return found
        return []

    def _with_hash(self, digits: str) -> list[LoraEntry]:
        return [
            entry
            for entry in self.entries()
            if any(known and known.startswith(digits) for known in (entry.sha256, entry.autov3))
        ]

    def _claiming(self, digits: str) -> list[LoraEntry]:
        """Files that say that they have this hash: it is what A1111 writes for them."""
        return [entry for entry in self._entries if self.facts(entry).claimed_hash.startswith(digits)]

    def _only(self, name: str, found: Sequence[LoraEntry]) -> LoraEntry:
        if len(found) > 1:
            raise AmbiguousName("LoRA", name, [entry.name for entry in found])
        if not found:
            raise UnknownName("LoRA", name, [entry.name for entry in self._entries])
        return found[0]

    def _as_it_is(self, entry: LoraEntry) -> LoraEntry:
        with suppress(OSError):
            sha256, autov3 = self._hashes.known(entry.path), self._hashes.known_of_tensors(entry.path)
            status = entry.path.stat()  # metadata may have been edited since the look
            return dataclasses.replace(
                entry, size=status.st_size, modified=status.st_mtime, sha256=sha256, autov3=autov3
            )
        return entry


def _names(entry: LoraEntry) -> tuple[str, str, str]:
    return entry.name, f"{entry.name}{entry.path.suffix}", entry.path.as_posix()


def _without_copies(found: Sequence[LoraEntry]) -> list[LoraEntry]:
    """One of several files with equal contents, whose hash means all of them."""
    hashes = {entry.autov3 or entry.sha256 for entry in found}
    return list(found[:1]) if len(hashes) == 1 and None not in hashes else list(found)


def _listed(folders: Sequence[Path]) -> Iterator[LoraEntry]:
    """Every file under a name of its own: what a second folder has under a name of the first is called by its folder.

    Of files that differ in their ending alone, the one that can be read is listed.
    """
    names: set[str] = set()
    for folder in folders:
        for name, path in sorted(_files(folder).items()):
            if name in names:
                name = f"{path.parent.name if path == folder else folder.name}/{name}"
            with suppress(OSError):  # gone since
                if name not in names and path.is_file():
                    status = path.stat()
                    names.add(name)
                    yield LoraEntry(name=name, path=path, size=status.st_size, modified=status.st_mtime)


def _files(folder: Path) -> dict[str, Path]:
    """folder: also a single file, wherever it lies, as the command line may name one."""
    if folder.is_file():
        return {folder.stem: folder}
    found: dict[str, Path] = {}
    endings = READ + OTHERS
    for path in sorted(folder.rglob("*"), key=lambda path: (path.suffix.lower() not in READ, path.as_posix())):
        if path.suffix.lower() in endings and not path.name.startswith("."):
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    return found
