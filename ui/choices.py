"""What can be picked in the lists of the form: (shown, value) pairs by the name of the field."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from backend.diffusion.schedules import AUTOMATIC
from backend.engine.components import ENCODER_LABELS
from backend.engine.engine import Engine
from backend.engine.library import CheckpointEntry
from backend.errors import EmulsionError
from backend.registry import Named
from backend.request import PredictionKind

Choices: TypeAlias = list[tuple[str, str]]

_MAX_PROBLEM = 160  # characters
_AS_FIRST = "As in the first pass"
_PREDICTIONS = {
    PredictionKind.EPS: "Noise (eps)",
    PredictionKind.V: "v",
    PredictionKind.V_ZERO_SNR: "v, zero terminal SNR",
}


def choices_of(engine: Engine, checkpoint: str, prediction: str = "") -> dict[str, Choices]:
    """Every list, as it is at this moment; checkpoint and prediction decide what the model's own choices are."""
    checkpoints = [(entry.name, entry.name) for entry in engine.library.checkpoints() if not entry.problem]
    upscalers = upscalers_of(engine)
    samplers, schedules = _labelled(engine.catalog.samplers), _labelled(engine.catalog.schedules)
    return {
        "checkpoint": [(_shown(entry), entry.name) for entry in engine.library.checkpoints()],
        "vae": [("Automatic", ""), *((entry.name, entry.name) for entry in engine.library.vaes())],
        "text_encoders": [
            (f"{entry.name} ({ENCODER_LABELS[entry.kind]})", entry.name) for entry in engine.library.text_encoders()
        ],
        "refiner": [("None", ""), *checkpoints],
        "sampler": [(_own_sampler(engine, checkpoint, prediction), ""), *samplers],
        "schedule": [("Automatic", ""), *schedules],
        "prediction": [
            (_own_prediction(engine, checkpoint), ""),
            *((label, kind.value) for kind, label in _PREDICTIONS.items()),
        ],
        "emphasis": _labelled(engine.catalog.emphasis_modes),
        "noise_source": _labelled(engine.catalog.noise_sources),
        "init.upscaler": [("Automatic (Lanczos)", ""), *upscalers],
        "hires.upscaler": [*_labelled(engine.catalog.latent_upscalers), *upscalers],
        "hires.checkpoint": [(_AS_FIRST, ""), *checkpoints],
        "hires.sampler": [(_AS_FIRST, ""), *samplers],
        "hires.schedule": [(_AS_FIRST, ""), ("Automatic", AUTOMATIC), *schedules],
    }


def upscalers_of(engine: Engine) -> Choices:
    """Networks, and ways of resampling by their labels: of a file, its name says more."""
    usable = (entry for entry in engine.upscalers.entries() if not entry.problem)
    return [(entry.name if entry.path else entry.label, entry.name) for entry in usable]


def usual_checkpoint(engine: Engine) -> str:
    """Name of the checkpoint that a request gets which names none; "" when there is none."""
    try:
        return engine.describe_checkpoint(None).name
    except EmulsionError:
        return ""


def _labelled(entries: Iterable[Named]) -> Choices:
    return [(entry.label, entry.name) for entry in entries]


def prediction_of(chosen: object) -> PredictionKind | None:
    """The kind that a list's value stands for."""
    return next((kind for kind in PredictionKind if kind.value == chosen), None)


def _own_sampler(engine: Engine, checkpoint: str, prediction: str) -> str:
    try:
        name = engine.describe_checkpoint(checkpoint or None, prediction_of(prediction)).defaults.sampler
        return f"{engine.catalog.samplers[name].label} (model)"
    except EmulsionError:
        return "Model's own"


def _own_prediction(engine: Engine, checkpoint: str) -> str:
    try:
        kind = engine.describe_checkpoint(checkpoint or None).description.prediction
    except EmulsionError:
        kind = None
    return f"{_PREDICTIONS[kind]} (model)" if kind else "Model's own"


def _shown(entry: CheckpointEntry) -> str:
    if not entry.problem:
        return entry.name
    problem = entry.problem.removeprefix(f"{entry.path.name}: ")
    return f"{entry.name} (cannot be used: {problem[:_MAX_PROBLEM]})"
