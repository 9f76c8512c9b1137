"""What jobs need besides a plan and its first model; whoever runs them has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from backend.families.family import Model
from backend.pipeline.passes import ModelOfStep
from backend.pipeline.plan import GenerationPlan


@dataclass(frozen=True, kw_only=True)
class OpenedModels:
    """The models of a plan. models, refiner_models: where they change over the steps, else None.

    refiner: see `generate`.
    """

    model: Model
    models: ModelOfStep | None = None
    refiner: Model | None = None
    refiner_models: ModelOfStep | None = None


@dataclass(frozen=True, kw_only=True)
class Means:
    """Functions that may raise EmulsionError.

    open_models: the models of a second pass. picture: a stored one by its hash, RGB or RGBA.
    enlarge: (name of an upscaler, picture, width, height) -> the picture at that size.
    detect: (name of a detector, picture) -> masks (L, of the picture's size) of what it finds.
    """

    open_models: Callable[[GenerationPlan], OpenedModels]
    picture: Callable[[str], Image.Image]
    enlarge: Callable[[str, Image.Image, int, int], Image.Image]
    detect: Callable[[str, Image.Image], Sequence[Image.Image]]
