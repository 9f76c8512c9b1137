"""Hypernetworks in folders: what there is, and what of it the tags of a prompt ask for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backend.adapter_row import NameHash
from backend.engine.converted_pickles import PICKLES, ConvertedPickles
from backend.errors import AdapterDoesNotFit, FileError, NotSupported, UnknownName
from backend.families.family import Family
from backend.families.hypernetwork_files import HypernetworkFile, read_hypernetwork
from backend.pipeline.planned_hypernetworks import HYPERNET, PlannedHypernetwork, PlannedHypernetworks
from backend.text.network_tags import NetworkTag
from backend.weights.source import WeightSource

_ENDINGS = (".safetensors", *PICKLES)
_KIND = "hypernet"
_CONTEXTS = (".attn1.to_k.weight", ".attn2.to_k.weight")


@dataclass(frozen=True, kw_only=True)
class HypernetworkEntry:
    """name: of the file without its ending, with the folder that it lies in."""

    name: str
    path: Path


class HypernetworkFiles:
    """Files below `folders`, each read when a prompt asks for it. sha256: of a file; raises OSError."""

    def __init__(self, folders: Sequence[Path], pickles: ConvertedPickles, sha256: Callable[[Path], str]) -> None:
        self._folders = tuple(folders)
        self._pickles = pickles
        self._sha256 = sha256
        self._lock = threading.Lock()
        self._read: dict[str, HypernetworkFile] = {}  # by the hash of the file

    def entries(self) -> list[HypernetworkEntry]:
        """What lies in the folders now, by name; the first of two with one name."""
        found: dict[str, HypernetworkEntry] = {}
        for folder in self._folders:
            for path in sorted(folder.rglob("*")):
                if path.suffix.lower() in _ENDINGS and not path.name.startswith(".") and path.is_file():
                    name = path.relative_to(folder).with_suffix("").as_posix()
                    found.setdefault(name.casefold(), HypernetworkEntry(name=name, path=path))
        return sorted(found.values(), key=lambda entry: entry.name.casefold())

    def find(self, name: str) -> HypernetworkEntry:
        """By name, with or without its folder, or by the start of its SHA-256 behind "#". Raises UnknownName."""
        entries, asked = self.entries(), name.strip().replace("\\", "/").casefold()
        if asked.startswith("#"):
            found = self.with_hash(asked[1:])
        else:
            named = [entry for entry in entries if asked in (entry.name.casefold(), entry.path.stem.casefold())]
            found = next(iter(sorted(named, key=lambda entry: entry.name.casefold() != asked)), None)
        if found is None:
            raise UnknownName("hypernetwork", name, [entry.name for entry in entries])
        return found

    def with_hash(self, start: str) -> HypernetworkEntry | None:
        """The file whose SHA-256 begins so."""
        return next((entry for entry in self.entries() if self.sha256(entry).startswith(start)), None)

    def sha256(self, entry: HypernetworkEntry) -> str:
        """Raises FileError."""
        try:
            return self._sha256(entry.path)
        except OSError as error:
            raise FileError(entry.path, f"it cannot be read ({error.strerror}).") from error

    def read(self, entry: HypernetworkEntry) -> HypernetworkFile:
        """Remembered by its contents. Raises FileError, OutputError."""
        sha256 = self.sha256(entry)
        with self._lock:
            known = self._read.get(sha256)
        if known is None:
            known = read_hypernetwork(self._pickles.open(entry.path, sha256))
            with self._lock:
                self._read[sha256] = known
        return known


@dataclass
class _Finder:
    files: HypernetworkFiles
    hashes: Mapping[str, str]
    skips_missing: bool
    notices: list[str] = field(default_factory=list[str])

    def found(self, tag: NetworkTag) -> HypernetworkEntry | None:
        """The file with the contents that were meant, or else that of this name. None for one that may be missing."""
        wanted = self.hashes.get(tag.name)
        by_hash = self.files.with_hash(wanted) if wanted else None
        if by_hash is not None:
            return by_hash
        try:
            entry = self.files.find(tag.name)
        except UnknownName as error:
            if not self.skips_missing:
                raise
            self.notices.append(f"The picture is made without hypernetwork {tag.name}. {error}")
            return None
        if wanted:
            self.notices.append(
                f"Hypernetwork {entry.name} is another file than the one that was meant: its contents differ."
            )
        return entry


def plan_hypernetworks(
    tags: Sequence[NetworkTag],
    files: HypernetworkFiles,
    *,
    family: Family,
    contexts: Callable[[], frozenset[int]],
    name_hashes: Sequence[NameHash] = (),
    skips_missing: bool = False,
) -> PlannedHypernetworks:
    """What the tags of a prompt ask for. contexts: the widths of what the model's attentions attend to.

    Raises NotSupported for a family that takes none, UnknownName, and FileError for one that does not fit.
    """
    wanted = [tag for tag in tags if tag.kind == _KIND and tag.strength]
    if not wanted:
        return PlannedHypernetworks()
    if not family.takes_hypernetworks:
        raise NotSupported(
            "prompt",
            f"models of {family.label} take no hypernetworks; SD 1.x, SD 2.x and SDXL do. Remove {wanted[0].text}",
        )
    hashes = {one.name.removeprefix(HYPERNET): one.hash for one in name_hashes if one.name.startswith(HYPERNET)}
    finder = _Finder(files, hashes, skips_missing)
    acting: list[PlannedHypernetwork] = []
    for tag in wanted:
        entry = finder.found(tag)
        if entry is None:
            continue
        file = files.read(entry)
        finder.notices += _fit(entry, file, family, contexts())
        acting.append(
            PlannedHypernetwork(
                name=entry.name, tag=tag.name, sha256=files.sha256(entry), strength=tag.strength, file=file
            )
        )
    return PlannedHypernetworks(acting=tuple(acting), notices=tuple(finder.notices))


def contexts_of(source: WeightSource) -> frozenset[int]:
    """The widths of what the attentions of a checkpoint's U-Net attend to: pixels of each level, and the text."""
    shapes = (source.spec(key).shape for key in source.keys() if key.endswith(_CONTEXTS))
    return frozenset(shape[1] for shape in shapes if len(shape) == 2)


def _fit(entry: HypernetworkEntry, file: HypernetworkFile, family: Family, contexts: frozenset[int]) -> list[str]:
    """What is to be told of how it fits. Raises AdapterDoesNotFit."""
    widths = file.config.widths.keys()
    made_for = f"was made for {file.made_for}" if file.made_for else "was made for another model"
    if not widths & contexts:
        raise AdapterDoesNotFit(
            entry.path,
            f"it {made_for}, and the model is {family.label}: none of its layers is for what this model attends to "
            f"(widths {_listed(widths)}; the model's are {_listed(contexts)}). Choose another one.",
        )
    if file.made_for and not any(width in contexts for width in widths if width in (768, 1024, 2048)):
        return [
            f"Hypernetwork {entry.name} {made_for}, and the model is {family.label}; only its layers of width "
            f"{_listed(widths & contexts)} act."
        ]
    return []


def _listed(widths: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(widths)))
