"""What lies on the disk: checkpoints, VAEs, text encoders, LoRAs and recipes, found by people's names."""

from __future__ import annotations

import dataclasses
import errno
import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from backend.adapters.lora_facts import LoraFacts
from backend.engine.lora_facts_cache import LoraFactsCache
from backend.engine.lora_library import LoraEntry, LoraLibrary
from backend.engine.recipe_files import read_recipe
from backend.engine.recipe_inputs import Entry, find_inputs
from backend.errors import EmulsionError, UnknownName
from backend.families.family import Family
from backend.families.recognition import recognised
from backend.recipe import CheckpointInput, Merge, Node, Recipe, WithAdapters, WithVae
from backend.text.encoder_layouts import kind_of_encoder
from backend.weights.hashing import SHORT, HashCache
from backend.weights.shards import is_later_shard
from backend.weights.weight_file import ENDINGS, open_weights

_log = logging.getLogger(__name__)
_E = TypeVar("_E", bound=Entry)
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_HASH_BEHIND_NAME = re.compile(r" ?\[[0-9a-fA-F]{6,64}\]$")
_HASH = re.compile(r"[0-9a-fA-F]{8,64}")


@dataclass(frozen=True, kw_only=True)
class CheckpointEntry:
    """A file in a folder of checkpoints, or a recipe, from which a model is made.

    name: file name without its ending, with the folder it lies in. family: registry name, "" when it is not known.
    problem: why the file cannot be used, "" when it can. size: bytes; of a recipe, those of its first model.
    sha256: None until it was computed; of a recipe, its hash.
    recipe: with the names of files in the library. path: of the file; of a recipe that is in none, its name.
    """

    name: str
    path: Path
    family: str
    problem: str
    size: int
    sha256: str | None
    recipe: Recipe | None = None

    @property
    def title(self) -> str:
        """The name that A1111's clients show and send back."""
        name = self.path.name if self.recipe is None else self.name
        return f"{name} [{self.sha256[:SHORT]}]" if self.sha256 else name


@dataclass(frozen=True, kw_only=True)
class VaeEntry:
    """latent_channels: 0 when the header does not tell."""

    name: str
    path: Path
    latent_channels: int = 0


@dataclass(frozen=True, kw_only=True)
class TextEncoderEntry:
    """kind: "clip_l", "clip_h", "clip_g" or "t5"."""

    name: str
    path: Path
    kind: str


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """What there was at one look. A look that is not finished is seen by nobody but itself."""

    checkpoints: tuple[CheckpointEntry, ...] = ()
    vaes: tuple[VaeEntry, ...] = ()
    text_encoders: tuple[TextEncoderEntry, ...] = ()

    def find_checkpoint(self, name: str) -> CheckpointEntry:
        plain = _HASH_BEHIND_NAME.sub("", name.strip())
        named = _called(plain, self.checkpoints)
        if not named and _HASH.fullmatch(plain):
            named = [entry for entry in self.checkpoints if entry.sha256 and entry.sha256.startswith(plain.lower())]
        if not named:
            raise UnknownName("checkpoint", name, [entry.name for entry in self.checkpoints])
        return named[0]

    def find_vae(self, name: str) -> VaeEntry:
        found = next(iter(_called(name.strip(), self.vaes)), None)
        if found is None:
            raise UnknownName("VAE", name, [entry.name for entry in self.vaes])
        return found

    def find_text_encoder(self, name: str) -> TextEncoderEntry:
        found = next(iter(_called(name.strip(), self.text_encoders)), None)
        if found is None:
            raise UnknownName("text encoder", name, [entry.name for entry in self.text_encoders])
        return found

    def with_checkpoints(self, added: Sequence[CheckpointEntry]) -> _Listing:
        """added: in place of those that lie at the same path."""
        paths = {entry.path for entry in added}
        checkpoints = [*(entry for entry in self.checkpoints if entry.path not in paths), *added]
        return dataclasses.replace(self, checkpoints=_sorted(checkpoints))


class Library:
    """Files below the folders of models. Reads headers only, and only of files that changed since the last look."""

    def __init__(
        self,
        checkpoint_dirs: Sequence[Path],
        vae_dirs: Sequence[Path],
        text_encoder_dirs: Sequence[Path],
        families: Sequence[Family],
        hashes: HashCache,
        *,
        lora_dirs: Sequence[Path] = (),
        recipe_dirs: Sequence[Path] = (),
        lora_facts: Path | None = None,
    ) -> None:
        """lora_facts: where it is kept what LoRAs tell of themselves; None for nowhere."""
        self._checkpoint_dirs = tuple(checkpoint_dirs)
        self._vae_dirs = tuple(vae_dirs)
        self._text_encoder_dirs = tuple(text_encoder_dirs)
        self._recipe_dirs = tuple(recipe_dirs)
        self._families = tuple(families)
        self._hashes = hashes
        self._lora_facts = LoraFactsCache(lora_facts)
        self._loras = LoraLibrary(lora_dirs, hashes, self._lora_facts)
        self._lock = threading.Lock()
        self._seen: dict[Path, tuple[int, int, CheckpointEntry]] = {}
        self._listing = _Listing()
        self.refresh()

    def refresh(self) -> None:
        """Look at the folders again."""
        self._loras.refresh()
        found = _Listing(
            checkpoints=_sorted([self._entry(name, path) for name, path in self._checkpoint_files()]),
            vaes=_sorted(
                [
                    VaeEntry(name=name, path=path, latent_channels=_latent_channels(path))
                    for name, path in _files(self._vae_dirs, ENDINGS)
                ]
            ),
            text_encoders=_sorted(list(_text_encoders(self._text_encoder_dirs))),
        )
        found = self._with_recipes(found)
        with self._lock:
            self._listing = found

    def refresh_loras(self) -> None:
        """Look at the folders of LoRAs again."""
        self._loras.refresh()

    def close(self) -> None:
        """Write down what was found out and is not kept yet."""
        self._lora_facts.save()

    def checkpoints(self) -> list[CheckpointEntry]:
        return list(self._listing.checkpoints)

    def vaes(self) -> list[VaeEntry]:
        return list(self._listing.vaes)

    def text_encoders(self) -> list[TextEncoderEntry]:
        return list(self._listing.text_encoders)

    def loras(self) -> list[LoraEntry]:
        return self._loras.entries()

    def find_checkpoint(self, name: str) -> CheckpointEntry:
        """By title, name, file name or the start of its hash. Raises UnknownName, which lists what there is."""
        return self._listing.find_checkpoint(name)

    def find_vae(self, name: str) -> VaeEntry:
        """By name or file name. Raises UnknownName."""
        return self._listing.find_vae(name)

    def find_text_encoder(self, name: str) -> TextEncoderEntry:
        """By name or file name. Raises UnknownName."""
        return self._listing.find_text_encoder(name)

    def find_lora(self, name: str) -> LoraEntry:
        """By name, with or without folder and ending, by the start of a hash that is known, or by alias.

        "#" in front says that it is a hash. Raises UnknownName, and AmbiguousName for what several files are called.
        """
        return self._loras.find(name)

    def find_lora_by_hash(self, digits: str) -> LoraEntry:
        """By 8 to 64 hex digits, for which files are hashed until one fits. Raises UnknownName, AmbiguousName."""
        return self._loras.find_by_hash(digits)

    def lora_facts(self, entry: LoraEntry) -> LoraFacts:
        """What the header tells, remembered until the file changes."""
        return self._loras.facts(entry)

    def lora_hash(self, entry: LoraEntry) -> str:
        """SHA-256 of the tensors alone, remembered: A1111 writes its first 12 digits into pictures. Raises OSError."""
        return self._loras.hash(entry)

    def edit_lora_metadata(self, entry: LoraEntry, changes: Mapping[str, str | None]) -> dict[str, str]:
        """Write texts into a file's header, and remove what becomes None. Raises as `edit_metadata` does."""
        return self._loras.edit_metadata(entry, changes)

    def entry_of(self, name: str, recipe: Recipe | None) -> CheckpointEntry:
        """A checkpoint by its name, or what a recipe makes under that name. Raises UnknownName."""
        return self.find_checkpoint(name) if recipe is None else self.made_entry(recipe, name)

    def made_entry(self, recipe: Recipe, name: str, path: Path | None = None) -> CheckpointEntry:
        """A recipe as something that can be chosen like a checkpoint. What is missing for it is its problem."""
        return self._made_of(self._listing, recipe, name, path)

    def _made_of(self, listing: _Listing, recipe: Recipe, name: str, path: Path | None) -> CheckpointEntry:
        try:
            found = find_inputs(recipe, _Inputs(self, listing)).recipe
            first = listing.find_checkpoint(_first_model(found.root).file.name)
        except EmulsionError as error:
            return CheckpointEntry(
                name=name, path=path or Path(name), family="", problem=f"The recipe {name} cannot be used. {error}",
                size=0, sha256=None, recipe=recipe,
            )  # fmt: skip
        return CheckpointEntry(
            name=name,
            path=path or Path(name),
            family=first.family,
            problem=first.problem,
            size=first.size,
            sha256=found.hash if all(file.sha256 for file in found.files()) else None,
            recipe=found,
        )

    def hash(self, entry: CheckpointEntry) -> CheckpointEntry:
        """The entry with its SHA-256, which takes a second for every gigabyte the first time. Raises OSError.

        Of a recipe, all of its files are hashed.
        """
        if entry.recipe is not None:
            try:
                found = find_inputs(entry.recipe, self)
            except UnknownName as error:
                raise FileNotFoundError(errno.ENOENT, str(error)) from error
            for path in found.paths:
                _ = self._hashes.hash_of_tensors(path) if path in found.loras else self.hash_of(path)
            hashed = self.made_entry(entry.recipe, entry.name, entry.path)
        else:
            hashed = dataclasses.replace(entry, sha256=self._hashes.hash(entry.path))
        with self._lock:
            if entry.path in {other.path for other in self._listing.checkpoints}:
                self._listing = self._listing.with_checkpoints([hashed])
            if entry.path in self._seen:
                self._seen[entry.path] = (*self._seen[entry.path][:2], hashed)
        self._name_hashes_of_recipes()
        return hashed

    def hash_of(self, path: Path) -> str:
        """SHA-256 of any file, remembered. Raises OSError."""
        return self._hashes.hash(path)

    def known_hash(self, path: Path) -> str | None:
        """SHA-256 of a file if it was computed before; None also for a file that is gone."""
        with suppress(OSError):
            return self._hashes.known(path)
        return None

    def known_lora_hash(self, path: Path) -> str | None:
        """`lora_hash` of a file if it was computed before; None also for a file that is gone."""
        with suppress(OSError):
            return self._hashes.known_of_tensors(path)
        return None

    def _checkpoint_files(self) -> Iterator[tuple[str, Path]]:
        return _files(self._checkpoint_dirs, ENDINGS + _PICKLES)

    def _with_recipes(self, listing: _Listing) -> _Listing:
        """Recipes become checkpoints, those that need other recipes after those."""
        taken = {entry.name.casefold() for entry in listing.checkpoints}
        waiting = [(name, path) for name, path in _files(self._recipe_dirs, (".json",)) if name.casefold() not in taken]
        while waiting:
            entries = [self._recipe_entry(listing, name, path) for name, path in waiting]
            done = [entry for entry in entries if not entry.problem] or entries
            listing = listing.with_checkpoints(done)
            waiting = [(name, path) for name, path in waiting if path not in {entry.path for entry in done}]
        return listing

    def _name_hashes_of_recipes(self) -> None:
        """Files have been hashed: the hashes of listed recipes may be known by now."""
        for entry in self.checkpoints():
            if entry.recipe is not None and entry.sha256 is None and not entry.problem:
                known = self.made_entry(entry.recipe, entry.name, entry.path)
                with self._lock:
                    if entry in self._listing.checkpoints:
                        self._listing = self._listing.with_checkpoints([known])

    def _recipe_entry(self, listing: _Listing, name: str, path: Path) -> CheckpointEntry:
        try:
            recipe = read_recipe(path)
        except EmulsionError as error:
            return CheckpointEntry(name=name, path=path, family="", problem=str(error), size=0, sha256=None)
        return self._made_of(listing, dataclasses.replace(recipe, name=name), name, path)

    def _entry(self, name: str, path: Path) -> CheckpointEntry:
        status = path.stat()
        known = self._seen.get(path)
        if known and known[:2] == (status.st_size, status.st_mtime_ns):
            return known[2]
        family, problem = _look_at(path, self._families)
        entry = CheckpointEntry(
            name=name,
            path=path,
            family=family,
            problem=problem,
            size=status.st_size,
            sha256=self._hashes.known(path),
        )
        self._seen[path] = (status.st_size, status.st_mtime_ns, entry)
        return entry


class _Inputs:
    """What recipes are made of: the files of a listing that may not be finished, and LoRAs."""

    def __init__(self, library: Library, listing: _Listing) -> None:
        self._library = library
        self._listing = listing

    def find_checkpoint(self, name: str) -> CheckpointEntry:
        return self._listing.find_checkpoint(name)

    def find_vae(self, name: str) -> VaeEntry:
        return self._listing.find_vae(name)

    def find_lora(self, name: str) -> LoraEntry:
        return self._library.find_lora(name)

    def known_hash(self, path: Path) -> str | None:
        return self._library.known_hash(path)

    def known_lora_hash(self, path: Path) -> str | None:
        return self._library.known_lora_hash(path)


def _first_model(node: Node) -> CheckpointInput:
    match node:
        case CheckpointInput():
            return node
        case Merge():
            return _first_model(node.models[0])
        case WithAdapters() | WithVae():
            return _first_model(node.model)


def _look_at(path: Path, families: Sequence[Family]) -> tuple[str, str]:
    """Family and problem of a file."""
    try:
        family = recognised(open_weights(path), families)
    except EmulsionError as error:
        return "", str(error)
    if family.load is None:
        return family.name, f"{path.name}: this is a {family.label} file: {family.advice}"
    return family.name, ""


def _latent_channels(path: Path) -> int:
    try:
        source = open_weights(path)
    except EmulsionError as error:
        _log.warning("VAE %s", error)
        return 0
    for key in source.keys():
        if key.endswith("decoder.conv_in.weight"):
            return source.spec(key).shape[1]
    return 0


def _text_encoders(folders: Sequence[Path]) -> Iterator[TextEncoderEntry]:
    for name, path in _files(folders, ENDINGS):
        try:
            kind = kind_of_encoder(open_weights(path))
        except EmulsionError as error:
            _log.warning("Text encoder %s", error)
            continue
        if kind is None:
            _log.warning("%s holds no text encoder that is known; it is not listed", path.name)
            continue
        yield TextEncoderEntry(name=name, path=path, kind=kind)


def _files(folders: Sequence[Path], endings: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Name and path of each file, the first of two with one name; hidden files and broken links are passed over."""
    names: set[str] = set()
    for folder in folders:
        is_single = folder.is_file()  # --ckpt names one file, wherever it lies
        for path in [folder] if is_single else sorted(folder.rglob("*")):
            if path.suffix.lower() not in endings or path.name.startswith(".") or not path.is_file():
                continue
            if is_later_shard(path) and not is_single:
                continue
            name = path.stem if is_single else path.relative_to(folder).with_suffix("").as_posix()
            if is_single and name in names:
                name = f"{path.parent.name}/{path.stem}"
            if name not in names:
                names.add(name)
                yield name, path


def _sorted(entries: Sequence[_E]) -> tuple[_E, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.name.casefold()))


def _called(asked: str, entries: Sequence[_E]) -> list[_E]:
    """What is called so; first that whose very name it is, for files in several folders may share the rest."""
    found = [entry for entry in entries if _is_called(asked, entry.name, entry.path)]
    return sorted(found, key=lambda entry: entry.name.casefold() != asked.replace("\\", "/").casefold())


def _is_called(asked: str, name: str, path: Path) -> bool:
    asked = asked.replace("\\", "/").casefold()
    return asked in {text.casefold() for text in (name, path.name, path.stem, f"{name}{path.suffix}", path.as_posix())}
