"""Models that recipes make out of the library's files. Nothing of them is computed before it is used."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from backend.engine.recipe_inputs import InputLibrary, find_inputs, without_hashes
from backend.merging.catalog import MergeCatalog
from backend.merging.made_model import MadeModel
from backend.merging.merged import make_model
from backend.recipe import FileRef, Recipe
from backend.weights.source import WeightSource
from backend.weights.weight_file import open_weights

_KEPT = 8  # some megabytes of names each


@dataclass(frozen=True, kw_only=True)
class MadeRecipe:
    """recipe: in the library's names, with the hashes that are known. identity: equal ones mean equal weights.

    notices: for the user.
    """

    recipe: Recipe
    model: MadeModel
    identity: str
    notices: tuple[str, ...]


class MadeModels:
    """Remembers the last ones by their recipes and files."""

    def __init__(self, library: InputLibrary, catalog: MergeCatalog) -> None:
        self._library = library
        self._catalog = catalog
        self._models: OrderedDict[tuple[Recipe, str], MadeModel] = OrderedDict()
        self._lock = threading.Lock()

    def make(self, recipe: Recipe) -> MadeRecipe:
        """Raises UnsupportedMerge, RequestError, UnknownName, and FileError for a file that cannot be used."""
        found = find_inputs(recipe, self._library)
        sources = {id(file): open_weights(found.path_of(file)) for file in found.recipe.files()}

        def opened(file: FileRef) -> WeightSource:
            return sources[id(file)]

        files = " ".join(source.identity("") for source in sources.values())  # path, size and time of change
        plain = without_hashes(found.recipe)
        with self._lock:
            if (plain, files) not in self._models:
                self._models[plain, files] = make_model(found.recipe, opened, self._catalog)
            self._models.move_to_end((plain, files))
            while len(self._models) > _KEPT:
                self._models.popitem(last=False)
            model = self._models[plain, files]
        return MadeRecipe(
            recipe=found.recipe,
            model=model,
            identity=f"{plain.hash} {files}",
            notices=(*found.notices, *model.report.notices),
        )
