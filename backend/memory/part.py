"""What the residency is asked for: a network, where its weights come from, and how they are held."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import nn

from backend.memory.layouts import Target
from backend.weights.source import WeightSource


@dataclass(frozen=True)
class Part:
    """A network to hold.

    key: equal keys mean equal weights. label: what it is, for the user ("U-Net").
    build: makes the network, and is called on the meta device. It touches the parameters of a layer only inside of
    that layer's own forward.
    once: names of layers that run once per job or conditioning (modulation, keys and values of the text): they never
    stay on a GPU.
    tables: names of embeddings that look up rows where their table lies (backend/nn/layers.py): they stay on the host.
    often: names of layers that run many times in one pass: they always stay where they compute.
    """

    key: str
    label: str
    source: WeightSource
    target: Target
    build: Callable[[], nn.Module]
    once: Collection[str] = ()
    tables: Collection[str] = ()
    often: Collection[str] = ()

    @property
    def title(self) -> str:
        """For the user: "U-Net of anime.safetensors"."""
        return f"{self.label} of {self.source.origin.name}"
