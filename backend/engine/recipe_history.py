"""The recipes that were used last, on the disk."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from backend.engine.recipe_inputs import without_hashes
from backend.errors import OutputError, RequestError
from backend.recipe import Recipe, recipe_from
from backend.weights.atomic import write_atomically

_log = logging.getLogger(__name__)
KEPT = 100


@dataclass(frozen=True, kw_only=True)
class UsedRecipe:
    """time: when it was used last, ISO 8601 in UTC."""

    recipe: Recipe
    time: str


class RecipeHistory:
    """The newest hundred, each once, one JSON object on each line of a file. Losing it costs nothing else."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._used = _read(file)

    def newest_first(self) -> list[UsedRecipe]:
        with self._lock:
            return list(reversed(self._used))

    def add(self, recipe: Recipe) -> None:
        """A recipe is used. When that cannot be kept it is told in the log alone."""
        used = UsedRecipe(recipe=recipe, time=datetime.now(timezone.utc).isoformat(timespec="seconds"))
        with self._lock:
            same = without_hashes(recipe)
            others = [other for other in self._used if without_hashes(other.recipe) != same]
            self._used = [*others, used][-KEPT:]
            lines = [json.dumps({"time": one.time, "recipe": one.recipe.to_mapping()}) for one in self._used]
            try:
                write_atomically(self._file, ("\n".join(lines) + "\n").encode())
            except OutputError as error:
                _log.warning("the recipe is not kept in the history: %s", error)


def _read(file: Path) -> list[UsedRecipe]:
    try:
        lines = file.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        _log.warning("%s cannot be read (%s); the history of recipes begins anew", file.name, error)
        return []
    return [used for line in lines if (used := _entry(line, file)) is not None][-KEPT:]


def _entry(line: str, file: Path) -> UsedRecipe | None:
    try:
        content: Any = json.loads(line)
        return UsedRecipe(recipe=recipe_from(content["recipe"]), time=str(content["time"]))
    except (ValueError, TypeError, KeyError, RecursionError, RequestError) as error:
        _log.warning("a line of %s is no recipe (%s); it is left out", file.name, error)
        return None
