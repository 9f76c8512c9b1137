"""The user's recipes in the first folder of recipes: saved, changed and removed by name."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from pathlib import Path

from backend.engine.library import CheckpointEntry, Library
from backend.engine.recipe_files import write_recipe
from backend.engine.result_name import checked_name
from backend.errors import RequestError, UnknownName
from backend.recipe import Recipe
from backend.weights.atomic import told_as_output_errors


class StoredRecipes:
    """folder: where new ones go; those of the library's other folders are listed, too."""

    def __init__(self, library: Library, folder: Path) -> None:
        self._library = library
        self._folder = folder

    def entries(self) -> list[CheckpointEntry]:
        return [entry for entry in self._library.checkpoints() if entry.recipe is not None]

    def modified(self, entry: CheckpointEntry) -> str:
        """When its file was written, ISO 8601 in UTC; "" for one that is gone."""
        try:
            return datetime.fromtimestamp(entry.path.stat().st_mtime, timezone.utc).isoformat(timespec="seconds")
        except OSError:
            return ""

    def save(self, name: str, recipe: Recipe) -> CheckpointEntry:
        """Write it over one of this name. Raises RequestError, and as writing does."""
        name = checked_name("name", name)
        taken = next((entry for entry in self._library.checkpoints() if entry.name.casefold() == name.casefold()), None)
        if taken is not None and taken.path.suffix.lower() != ".json":
            raise RequestError("name", f'"{name}" is the name of a checkpoint; choose another')
        path = self._folder / f"{name}.json" if taken is None else taken.path
        write_recipe(path, dataclasses.replace(recipe, name=name))
        self._library.refresh()
        return self._library.find_checkpoint(name)

    def remove(self, name: str) -> None:
        """Raises UnknownName, and OutputError where the file cannot be removed."""
        entry = next((entry for entry in self.entries() if entry.name.casefold() == name.casefold()), None)
        if entry is None:
            raise UnknownName("recipe", name, [entry.name for entry in self.entries()])
        with told_as_output_errors(entry.path):
            entry.path.unlink(missing_ok=True)
        self._library.refresh()
