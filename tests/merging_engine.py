"""An engine with two tiny checkpoints, "a" and "b", that can be merged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backend.engine.engine import Engine
from backend.engine.job import JobView
from backend.engine.settings import Settings
from backend.recipe import CheckpointInput, FileRef, Merge, Recipe, Weights
from backend.request import GenerationRequest
from tests.tiny_checkpoint import write_tiny_checkpoint

TIMEOUT = 60


@contextmanager
def merging_engine(folder: Path, *, persistent: bool = False) -> Iterator[Engine]:
    for seed, name in enumerate("ab"):
        path = folder / "models" / "checkpoints" / f"{name}.safetensors"
        if not path.exists():
            write_tiny_checkpoint(path, seed=seed)
    engine = Engine.open(Settings.for_root(folder, force_cpu=True, memory_budget=2**30), persistent=persistent)
    try:
        yield engine
    finally:
        engine.close()


def half_of(a: str = "a", b: str = "b", *, alpha: float | Weights = 0.5, name: str = "") -> Recipe:
    models = tuple(CheckpointInput(file=FileRef(name=model)) for model in (a, b))
    weights = alpha if isinstance(alpha, Weights) else Weights(base=alpha)
    return Recipe(root=Merge(rule="lerp", models=models, parameters=(("alpha", weights),)), name=name)


def picture_request(**fields: Any) -> GenerationRequest:
    return GenerationRequest(prompt="a cat", steps=2, seed=5, **fields)


def run(engine: Engine, request: Any) -> JobView:
    return engine.wait(engine.submit(request), TIMEOUT)
