"""What can be picked in the lists of the form: (shown, value) pairs by the name of the field."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from backend.engine.components import ENCODER_LABELS
from backend.engine.engine import Engine
from backend.engine.library import CheckpointEntry
from backend.errors import EmulsionError
from backend.registry import Named

Choices: TypeAlias = list[tuple[str, str]]

_MAX_PROBLEM = 160  # characters


def choices_of(engine: Engine, checkpoint: str) -> dict[str, Choices]:
    """Every list, as it is at this moment; `checkpoint` decides what the model's own sampler is."""
    return {
        "checkpoint": [(_shown(entry), entry.name) for entry in engine.library.checkpoints()],
        "vae": [("Automatic", ""), *((entry.name, entry.name) for entry in engine.library.vaes())],
        "text_encoders": [
            (f"{entry.name} ({ENCODER_LABELS[entry.kind]})", entry.name) for entry in engine.library.text_encoders()
        ],
        "refiner": [
            ("None", ""),
            *((entry.name, entry.name) for entry in engine.library.checkpoints() if not entry.problem),
        ],
        "sampler": [(_own_sampler(engine, checkpoint), ""), *_labelled(engine.catalog.samplers)],
        "schedule": [("Automatic", ""), *_labelled(engine.catalog.schedules)],
        "emphasis": _labelled(engine.catalog.emphasis_modes),
        "noise_source": _labelled(engine.catalog.noise_sources),
    }


def usual_checkpoint(engine: Engine) -> str:
    """Name of the checkpoint that a request gets which names none; "" when there is none."""
    try:
        return engine.describe_checkpoint(None).name
    except EmulsionError:
        return ""


def _labelled(entries: Iterable[Named]) -> Choices:
    return [(entry.label, entry.name) for entry in entries]


def _own_sampler(engine: Engine, checkpoint: str) -> str:
    try:
        name = engine.describe_checkpoint(checkpoint or None).defaults.sampler
        return f"{engine.catalog.samplers[name].label} (model)"
    except EmulsionError:
        return "Model's own"


def _shown(entry: CheckpointEntry) -> str:
    if not entry.problem:
        return entry.name
    problem = entry.problem.removeprefix(f"{entry.path.name}: ")
    return f"{entry.name} (cannot be used: {problem[:_MAX_PROBLEM]})"
