"""What a kind of upscaler is: how its files are recognised, and the network that they are for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from backend.weights.source import WeightSource


@dataclass(frozen=True, kw_only=True)
class UpscalerNetwork:
    """An upscaler as its file describes it.

    source: its weights under the network's own names. build: the network, made on the meta device.
    scale: pixels of the result for one of the picture, along a side. channels: of pictures: 1 (grey), 3 (RGB) or 4
    (RGBA). side_step: of which the sides of what it is given must be multiples.
    context: pixels around a tile that decide what becomes of its edge, as far as can be seen.
    """

    label: str
    source: WeightSource
    build: Callable[[], nn.Module]
    scale: int
    channels: int = 3
    side_step: int = 1
    context: int


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A registered kind. open: raises UnsupportedCheckpoint for a file of the kind that cannot be used."""

    name: str
    label: str
    recognise: Callable[[WeightSource], bool]
    open: Callable[[WeightSource], UpscalerNetwork]
