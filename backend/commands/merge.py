"""`merge A B -o C`: make a model of others, without the page."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from backend.commands.flags import named_file, read_folders
from backend.commands.interrupts import terminable
from backend.commands.merge_recipe import asked_recipe, read_lora
from backend.commands.terminal import as_line
from backend.engine.catalog import Catalog
from backend.engine.library import Library
from backend.engine.made_models import MadeModels, MadeRecipe
from backend.engine.merge_jobs import hash_inputs
from backend.engine.recipe_files import read_recipe, write_recipe
from backend.engine.settings import Settings
from backend.errors import EmulsionError, OutputError, RequestError
from backend.memory.byte_sizes import as_text
from backend.merging.catalog import MergeCatalog
from backend.merging.metadata import merge_metadata
from backend.merging.saving import save_model
from backend.recipe import Recipe
from backend.weights.hashing import HashCache

_BAD_INPUT = 2
_SHOWN = 5  # names of each list in the report
_EVERY = 0.2  # seconds between two lines about the progress


def run(values: argparse.Namespace, root: Path) -> int:
    """2 for input that cannot be used, which is told in one line. Raises OutputError and Cancelled."""
    catalog = Catalog.builtin()
    merging = catalog.for_merging
    if values.list_rules:
        print("\n".join(_rule_lines(merging)))
        return 0
    try:
        settings = read_folders(values, root)
        output = None if values.dry_run else _output(values)  # before large files are read for their hashes
        asked, made = _made(values, settings, catalog)
    except OutputError:
        raise
    except EmulsionError as error:
        print(f"merge: {as_line(str(error), 2000)}", file=sys.stderr)
        return _BAD_INPUT
    for notice in made.notices:
        print(as_line(notice, 1000), file=sys.stderr)
    if values.save_recipe is not None:
        write_recipe(values.save_recipe, asked)
    seconds = 0.0
    if output is not None:
        began = time.monotonic()
        with terminable():
            _save(made, output, replace=values.force)
        seconds = time.monotonic() - began
    _tell(made, output, seconds, as_json=values.json)
    return 0


def _made(values: argparse.Namespace, settings: Settings, catalog: Catalog) -> tuple[Recipe, MadeRecipe]:
    """The recipe as it was asked for, and the model that it makes, composed from the headers of its files."""
    stored = None if values.recipe is None else read_recipe(values.recipe)
    in_recipe = [] if stored is None else [file.name for file in stored.files()]  # which does not say of what kind

    def files(*names: str | None) -> list[Path]:
        """Those that are named by their paths, wherever they lie."""
        return [path for name in (*names, *in_recipe) for path in named_file(name)[1]]

    library = Library(
        (*files(*values.models), *settings.checkpoint_dirs),
        (*files(values.vae), *settings.vae_dirs),
        (),
        list(catalog.families),
        HashCache(settings.data_dir / "hashes.json"),
        lora_dirs=(*files(*(read_lora(text).file for text in values.loras)), *settings.lora_dirs),
        recipe_dirs=settings.recipe_dirs,
    )
    asked = asked_recipe(values, stored, library, catalog.for_merging, lambda name: named_file(name)[0] or name)
    made = MadeModels(library, catalog.for_merging)
    if not values.dry_run:
        hash_inputs(asked, library)
    return asked, made.make(asked)


def _output(values: argparse.Namespace) -> Path:
    if values.output is None:
        raise RequestError("output", "is missing; name the file to write with -o FILE, or look first with --dry-run")
    path: Path = values.output.expanduser().absolute()
    if path.suffix.lower() not in (".safetensors", ".sft"):
        raise RequestError("output", f'"{values.output.name}" must end in .safetensors')
    if path.is_dir():
        raise RequestError("output", f"{path} is a folder; name a file in it")
    if path.exists() and not values.force:
        raise RequestError("output", f"{path} exists; choose another name, or write over it with --force")
    return path


def _save(made: MadeRecipe, path: Path, *, replace: bool) -> None:
    recipe = dataclasses.replace(made.recipe, name=path.stem)
    line = _Progress()
    try:
        save_model(
            made.model,
            path,
            metadata=merge_metadata(recipe, made.model, {}),
            on_progress=line,
            replace=replace,
        )
    finally:
        line.close()


class _Progress:
    """Bytes and the time that is left, on a terminal; nothing where the output is none."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._last = 0.0
        self._is_live = sys.stderr.isatty()

    def __call__(self, done: int, everything: int) -> None:
        now = time.monotonic()
        if not self._is_live or (now - self._last < _EVERY and done < everything):
            return
        self._last = now
        left = (now - self._began) * (everything - done) / max(1, done)
        text = f"\r{100 * done / max(1, everything):3.0f} % of {as_text(everything)}, {left:.0f} s left "
        print(text, end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._is_live and self._last:
            print("\r" + " " * 60, end="\r", file=sys.stderr, flush=True)


def _tell(made: MadeRecipe, output: Path | None, seconds: float, *, as_json: bool) -> None:
    report = made.model.report
    if as_json:
        facts = {
            **dataclasses.asdict(report),
            "file": str(output) if output else "",
            "seconds": round(seconds, 3),
            "hash": made.recipe.hash,
            "recipe": made.recipe.to_mapping(),
        }
        print(json.dumps(facts, indent=2))
        return
    if output is not None:
        print(as_line(str(output), 1000))
    print(f"  family    {report.family}")
    print(f"  size      {as_text(report.num_bytes)}, {report.parameters:,} parameters")
    for name in ("matched", "copied", "padded", "dropped"):
        keys: tuple[str, ...] = getattr(report, name)
        shown = ", ".join(as_line(key, 80) for key in keys[:_SHOWN]) if name != "matched" else ""
        more = f" and {len(keys) - _SHOWN} more" if shown and len(keys) > _SHOWN else ""
        print(f"  {name:<10}{len(keys):,}{': ' if shown else ''}{shown}{more}")
    print(f"  recipe    {made.recipe.hash[:10]}")
    if output is not None:
        print(f"  time      {seconds:.1f} s")


def _rule_lines(merging: MergeCatalog) -> list[str]:
    lines: list[str] = []
    for rule in merging.rules:
        numbers = ", ".join(
            f"{number.name} {number.minimum:g}..{number.maximum:g} ({number.default:g})"
            for number in rule.parameters(len(rule.roles))
        )
        lines += [
            f"{rule.name}: {rule.label}",
            f"  {rule.formula}",
            f"  {rule.explanation}",
            f"  models: {'; '.join(rule.roles)}{' and more' if rule.extra_models else ''}",
            f"  numbers: {numbers or 'none'}",
        ]
    return lines
