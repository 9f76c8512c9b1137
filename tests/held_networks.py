"""Networks with the weights of a source, as residency holds them where there is room for everything."""

from collections.abc import Callable
from typing import TypeVar, cast

from torch import nn

from backend.memory.layouts import Target
from backend.memory.part import Part
from backend.memory.residency import Residency
from backend.weights.source import WeightSource

N = TypeVar("N", bound=nn.Module)


def held_network(build: Callable[[], N], source: WeightSource, target: Target, *, label: str = "network") -> N:
    """build: makes the network, on the meta device. Raises what `Residency.get` does."""
    return cast(N, Residency(2**40).get(Part("network", label, source, target, build)))
