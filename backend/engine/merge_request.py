"""What a user asks for when a merged model is to be saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from backend.engine.result_name import checked_name
from backend.errors import RequestError
from backend.recipe import Recipe, recipe_from


@dataclass(frozen=True, kw_only=True)
class MergeRequest:
    """Save what a recipe makes as a checkpoint.

    name: of the new file in the first folder of checkpoints, without its ending; folders in it are made.
    replace: write over a file of this name. Raises RequestError.
    """

    kind: ClassVar[str] = "merge"
    recipe: Recipe
    name: str
    replace: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", checked_name("name", self.name))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> MergeRequest:
        """Read JSON values. Raises RequestError for an unknown field, too."""
        if unknown := sorted(str(name)[:60] for name in values.keys() - {"recipe", "name", "replace"}):
            raise RequestError(unknown[0], "is not known here. Known: recipe, name, replace")
        if "recipe" not in values:
            raise RequestError("recipe", "is missing")
        replace: object = values.get("replace", False)
        if not isinstance(replace, bool):
            raise RequestError("replace", f"must be true or false, not {replace!r:.60}")
        return cls(recipe=recipe_from(values["recipe"]), name=values.get("name", ""), replace=replace)

    def to_mapping(self) -> dict[str, Any]:
        """JSON values; `from_mapping` gives the same request back."""
        return {"recipe": self.recipe.to_mapping(), "name": self.name, "replace": self.replace}
