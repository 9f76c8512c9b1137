"""The files that a recipe names, found in the library."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from backend.errors import RequestError, UnknownName
from backend.recipe import (
    CheckpointInput,
    FileRef,
    Merge,
    Node,
    Recipe,
    WithAdapters,
    WithVae,
    recipe_from,
    with_hashes,
)


class Entry(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def path(self) -> Path: ...


class CheckpointLike(Entry, Protocol):
    @property
    def recipe(self) -> Recipe | None: ...


_E = TypeVar("_E", bound=Entry)


class InputLibrary(Protocol):
    """Every `find` raises UnknownName."""

    def find_checkpoint(self, name: str) -> CheckpointLike: ...

    def find_vae(self, name: str) -> Entry: ...

    def find_lora(self, name: str) -> Entry: ...

    def known_hash(self, path: Path) -> str | None: ...

    def known_lora_hash(self, path: Path) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class FoundRecipe:
    """A recipe in the library's own names, with the hashes that are known.

    paths: of the files, in the order of `recipe.files()`. loras: which of them are LoRAs. notices: for the user.
    """

    recipe: Recipe
    paths: tuple[Path, ...]
    loras: frozenset[Path]
    notices: tuple[str, ...]

    def path_of(self, file: FileRef) -> Path:
        """file: one of the very objects in the recipe: a LoRA may be called like a checkpoint."""
        return next(path for ref, path in zip(self.recipe.files(), self.paths, strict=True) if ref is file)


def find_inputs(recipe: Recipe, library: InputLibrary) -> FoundRecipe:
    """Look up every file by its hash or name; recipes that are named like checkpoints become part of this one.

    Raises UnknownName, which lists what there is, and RequestError.
    """
    finder = _Finder(library)
    root = finder.node(recipe.root)
    found = dataclasses.replace(recipe, root=root)
    recipe_from(found.to_mapping())  # refuses what has become too deep
    paths = tuple(finder.paths[id(file)] for file in found.files())
    notices = tuple(dict.fromkeys(finder.notices))
    return FoundRecipe(recipe=found, paths=paths, loras=frozenset(finder.loras), notices=notices)


def without_hashes(recipe: Recipe) -> Recipe:
    """Equal for recipes that differ in what is known of their files, and in their names, alone."""
    return dataclasses.replace(with_hashes(recipe, {file.name: "" for file in recipe.files()}), name="")


class _Finder:
    def __init__(self, library: InputLibrary) -> None:
        self._library = library
        self.paths: dict[int, Path] = {}  # by the id of a FileRef, all of which end up in the recipe
        self.loras: set[Path] = set()
        self.notices: list[str] = []

    def node(self, node: Node) -> Node:
        library = self._library
        match node:
            case CheckpointInput():
                entry = self._entry(node.file, library.find_checkpoint)
                if entry.recipe is None:
                    return dataclasses.replace(node, file=self._file(node.file, entry))
                if node.use_ema:
                    raise RequestError("recipe", f"{entry.name} is made by a recipe and has no averaged (EMA) weights")
                return self.node(entry.recipe.root)
            case Merge():
                return dataclasses.replace(node, models=tuple(self.node(model) for model in node.models))
            case WithAdapters():
                adapters = tuple(dataclasses.replace(use, file=self._lora(use.file)) for use in node.adapters)
                return dataclasses.replace(node, model=self.node(node.model), adapters=adapters)
            case WithVae():
                vae = self._file(node.vae, self._entry(node.vae, library.find_vae))
                return dataclasses.replace(node, model=self.node(node.model), vae=vae)

    def _entry(self, file: FileRef, find: Callable[[str], _E]) -> _E:
        """The file with these contents, whatever it is called here, or else that of this name."""
        for digits in filter(None, (file.tensors, file.sha256)):
            try:
                return find(digits)
            except UnknownName:
                pass
        return find(file.name)

    def _file(self, file: FileRef, entry: Entry) -> FileRef:
        known = self._library.known_hash(entry.path)
        self._compare(entry, file.sha256, known)
        return self._found(FileRef(name=entry.name, sha256=known or ""), entry)

    def _lora(self, file: FileRef) -> FileRef:
        """Other metadata make it no other LoRA, where the hash of its tensors is known."""
        entry = self._entry(file, self._library.find_lora)
        self.loras.add(entry.path)
        known, tensors = self._library.known_hash(entry.path), self._library.known_lora_hash(entry.path)
        if file.tensors:
            self._compare(entry, file.tensors, tensors)
        else:
            self._compare(entry, file.sha256, known)
        return self._found(FileRef(name=entry.name, sha256=known or "", tensors=tensors or ""), entry)

    def _compare(self, entry: Entry, meant: str, known: str | None) -> None:
        if meant and known and known != meant:
            self.notices.append(
                f"{entry.name} is another file than the one that the recipe was written for: its contents differ."
            )

    def _found(self, file: FileRef, entry: Entry) -> FileRef:
        self.paths[id(file)] = entry.path
        return file
