"""Recipes in files: one JSON file each, named like the model that it makes."""

from __future__ import annotations

import json
from pathlib import Path

from backend.errors import BadCheckpoint, RequestError
from backend.recipe import MAX_RECIPE_BYTES, Recipe, parse_recipe
from backend.weights.atomic import write_atomically


def read_recipe(path: Path) -> Recipe:
    """Raises BadCheckpoint for a file that cannot be read or holds no recipe."""
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise BadCheckpoint(path, f"it is too large for a recipe; at most {MAX_RECIPE_BYTES:,} bytes are read.")
        return parse_recipe(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadCheckpoint(path, f"it cannot be read ({error}).") from error
    except RequestError as error:
        raise BadCheckpoint(path, f"it is no recipe that can be read: {error}.") from error


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write over what is there. Raises DiskFull, NotWritable or OutputError."""
    write_atomically(path, json.dumps(recipe.to_mapping(), ensure_ascii=False, indent=1).encode())
