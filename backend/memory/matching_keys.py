"""Whether the weights of a file are those that a network has."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from backend.errors import KeysDoNotMatch
from backend.weights.source import WeightSource


def check_keys(slots: Mapping[str, torch.Size], source: WeightSource, part: str) -> None:
    """Compare names and shapes, from headers alone. Raises KeysDoNotMatch."""
    keys = frozenset(source.keys())
    missing = [name for name in slots if name not in keys]
    unexpected = [key for key in source.keys() if key not in slots]
    misshaped = [
        f"{name} {list(source.spec(name).shape)} instead of {list(shape)}"
        for name, shape in slots.items()
        if name in keys and source.spec(name).shape != tuple(shape)
    ]
    if missing or unexpected or misshaped:
        raise KeysDoNotMatch(source.origin, part, missing=missing, unexpected=unexpected, misshaped=misshaped)
