"""Finished pictures get the names that a command line asked for."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from pathlib import Path

from backend.engine.job import SavedImage
from backend.errors import OutputError
from backend.weights.atomic import give_name, told_as_output_errors


def refuse_existing(targets: Sequence[Path], *, force: bool) -> None:
    """Raises OutputError."""
    for target in targets:
        if target.is_dir():
            raise OutputError(f"{target} is a folder; name a file in it.")
        if target.exists() and not force:
            raise OutputError(f"{target} exists; choose another name, or write over it with --force.")


def deliver(image: SavedImage, target: Path, *, force: bool) -> SavedImage:
    """Give a finished picture the name it was made for, or one beside it when somebody has taken that meanwhile."""
    with told_as_output_errors(target):
        if force:
            image.path.replace(target)
            return dataclasses.replace(image, path=target)
        while True:
            try:
                give_name(image.path, target)
                return dataclasses.replace(image, path=target)
            except FileExistsError:
                target = target.with_name(f"{target.stem}-{secrets.token_hex(2)}{target.suffix}")
