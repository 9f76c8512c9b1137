"""Jobs that save merged models as checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from backend.engine.job_report import JobReport
from backend.engine.library import Library
from backend.engine.made_models import MadeModels
from backend.engine.merge_request import MergeRequest
from backend.errors import OutputError, RequestError
from backend.merging.metadata import merge_metadata
from backend.merging.saving import save_model
from backend.recipe import Recipe


class MergeJobs:
    """folder: where new checkpoints go. changed: called when there is one."""

    def __init__(self, library: Library, made: MadeModels, folder: Path, changed: Callable[[], None]) -> None:
        self._library = library
        self._made = made
        self._folder = folder
        self._changed = changed

    def check(self, request: MergeRequest) -> None:
        """Refuse what cannot be done before it is queued. Raises as making the model does, and RequestError."""
        self._made.make(request.recipe)
        _refuse_existing(self._path(request), replace=request.replace)

    def run(self, request: MergeRequest, report: JobReport) -> None:
        """From the beginning, also after a restart. Raises EmulsionError."""
        report.stage("reading the files")
        hash_inputs(request.recipe, self._library)
        made = self._made.make(request.recipe)
        for text in made.notices:
            report.notice(text)
        path = self._path(request)
        _refuse_existing(path, replace=request.replace)
        recipe = dataclasses.replace(made.recipe, name=path.stem)
        report.stage("merging")
        try:
            save_model(
                made.model,
                path,
                metadata=merge_metadata(recipe, made.model, {}),
                on_progress=report.bytes_done,
                is_cancelled=report.is_cancelled,
                replace=request.replace,
            )
        except FileExistsError as error:
            raise _exists(path) from error
        self._changed()

    def _path(self, request: MergeRequest) -> Path:
        return self._folder / f"{request.name}.safetensors"


def hash_inputs(recipe: Recipe, library: Library) -> None:
    """So that a recipe in a result names its files by what is in them; a second for every gigabyte the first time.

    Raises OutputError.
    """
    try:
        library.hash(library.made_entry(recipe, recipe.name or "recipe"))
    except OSError as error:
        raise OutputError(f"A file of the recipe cannot be read ({error.strerror}). Refresh the list.") from error


def _refuse_existing(path: Path, *, replace: bool) -> None:
    if path.exists() and not replace:
        raise _exists(path)


def _exists(path: Path) -> RequestError:
    return RequestError("name", f"{path.name} exists already. Choose another name, or allow it to be replaced")
