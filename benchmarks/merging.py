"""Merging against copying: `python -m benchmarks.merging sd15|sdxl`.

A weighted sum and a SLERP of two random files with the exact names and shapes of SD 1.5 or SDXL, each saved as a third,
against `cat A B > C` in the same run, one after the other, with the files in the system's cache. Each merge is a
process of its own, of whose memory the peak is watched; timed are composing and saving, without Python's start. What
`cat` leaves to be written to the disk later is written before the next is timed; what a merge waits for the disk in the
end (fsync of the file and its folder) is part of its time and is told.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.families.builtin import BUILTIN as FAMILIES
from backend.merging import normalisation
from backend.merging.catalog import MergeCatalog
from backend.merging.made_model import MadeModel
from backend.merging.merged import make_model
from backend.merging.metadata import merge_metadata
from backend.merging.rules import builtin as rules
from backend.merging.saving import save_model
from backend.recipe import CheckpointInput, FileRef, Merge, Override, Recipe, Weights
from backend.registry import Registry
from backend.weights.source import WeightSource
from backend.weights.weight_file import open_weights
from benchmarks.checkpoint import SHAPES, random_checkpoint
from benchmarks.watched_process import run_watched

_GOALS = {("sd15", "lerp"): 1.25, ("sdxl", "lerp"): 1.15, ("sd15", "slerp"): 2.5, ("sdxl", "slerp"): 2.5}
_MEMORY_GOAL = 512 * 2**20
_BLOCK_GOAL = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description="Merging against copying.")
    parser.add_argument("model", choices=("sd15", "sdxl"))
    parser.add_argument("--work", type=Path, help="folder for the random files, kept; a temporary one otherwise")
    parser.add_argument("--output", type=Path, help="where to write all figures as JSON")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        rule, *paths = arguments.child
        print(json.dumps(_merge(rule, arguments.work, *map(Path, paths))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        files = [random_checkpoint(work, SHAPES[arguments.model], seed=seed) for seed in (0, 1)]
        with tempfile.TemporaryDirectory(dir=work) as folder:
            rows = [_round(arguments.model, files, Path(folder)) for _ in range(arguments.runs)]
    _report(arguments.model, rows)
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=2) + "\n")


def _round(model: str, files: list[Path], folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"cat": _cat(files, folder / "c")}
    for rule in ("lerp", "slerp"):
        _warm(files)
        watched = run_watched("benchmarks.merging", model, "--child", rule, *map(str, files), "--work", str(folder))
        row[rule] = {**watched.result, "peak_anonymous": watched.peak_anonymous}
    return row


def _cat(files: list[Path], output: Path) -> float:
    _warm(files)
    os.sync()
    began = time.monotonic()
    with output.open("wb") as file:
        subprocess.run(["cat", *map(str, files)], stdout=file, check=True)
    seconds = time.monotonic() - began
    output.unlink()
    os.sync()
    return seconds


def _warm(files: list[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            while file.read(2**22):
                pass


def _merge(rule: str, folder: Path, first: Path, second: Path) -> dict[str, float]:
    """What a child process measures."""
    waited = _timed_fsync()
    began = time.monotonic()
    files = {str(path): open_weights(path) for path in (first, second)}
    made = _made(rule, files, Weights(base=0.3))
    composed = time.monotonic()
    recipe = Recipe(root=_root(rule, files, Weights(base=0.3)))
    save_model(made, folder / "merged.safetensors", metadata=merge_metadata(recipe, made, {}), replace=True)
    ended = time.monotonic()
    (folder / "merged.safetensors").unlink()
    changed = {f"block {block}": _block_change(rule, made, files, block) for block in ("M00", "IN01")}
    return {"seconds": ended - began, "composing": composed - began, "fsync": sum(waited[-2:]), **changed}


def _block_change(rule: str, before: MadeModel, files: Mapping[str, WeightSource], block: str) -> float:
    """Seconds to compose the model with another value of one block, and to compute what that changes."""
    began = time.monotonic()
    weights = Weights(base=0.3, overrides=(Override(value=0.6, blocks=(block,)),))
    source = _made(rule, files, weights).source
    for key in source.keys():
        if source.identity(key) != before.source.identity(key):
            source.read(key)
    return time.monotonic() - began


def _made(rule: str, files: Mapping[str, WeightSource], weights: Weights) -> MadeModel:
    catalog = MergeCatalog(
        rules=Registry("merge rule", rules.BUILTIN),
        normalisations=Registry("normalisation", normalisation.BUILTIN),
        families=Registry("model family", FAMILIES),
    )
    recipe = Recipe(root=_root(rule, files, weights))
    return make_model(recipe, lambda file: files[file.name], catalog)


def _root(rule: str, files: Mapping[str, WeightSource], weights: Weights) -> Merge:
    models = tuple(CheckpointInput(file=FileRef(name=name)) for name in files)
    return Merge(rule=rule, models=models, parameters=(("alpha", weights),))


def _timed_fsync() -> list[float]:
    waited: list[float] = []
    system = os.fsync

    def fsync(descriptor: int) -> None:
        began = time.monotonic()
        system(descriptor)
        waited.append(time.monotonic() - began)

    os.fsync = fsync
    return waited


def _report(model: str, rows: list[dict[str, Any]]) -> None:
    cat = min(row["cat"] for row in rows)
    copies = ", ".join(f"{row['cat']:.2f}" for row in rows)
    print(f"cat of two files: {copies} s")
    for rule in ("lerp", "slerp"):
        found = [row[rule] for row in rows]
        best = min(found, key=lambda one: one["seconds"])
        ratio, goal = best["seconds"] / cat, _GOALS[model, rule]
        peak = max(one["peak_anonymous"] for one in found)
        times = ", ".join(f"{one['seconds']:.2f}" for one in found)
        print(f"{rule}: {times} s, of the best {best['fsync']:.2f} s waiting for the disk")
        print(f"  {ratio:.2f} x cat, best of each ({_verdict(ratio <= goal)}, goal {goal})")
        print(f"  {peak / 2**20:.0f} MiB anonymous at most ({_verdict(peak <= _MEMORY_GOAL)})")
        for name in (name for name in best if name.startswith("block ")):
            share = min(one[name] for one in found) / best["seconds"]
            print(f"  {name} changed: {share:.1%} of a merge ({_verdict(share < _BLOCK_GOAL)})")


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


if __name__ == "__main__":
    main()
