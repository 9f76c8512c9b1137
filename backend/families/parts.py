"""The parts of a model as residency holds them: a network, the source of its weights, and how they are held."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from backend.families.family import Machine
from backend.memory.binding import Target, bind, held_bytes
from backend.memory.residency import Part
from backend.weights.source import WeightSource


def target_for(machine: Machine, dtype: torch.dtype) -> Target:
    """Weights of a network that computes in `dtype`: narrower ones stay as the file has them and widen on use."""
    widens_on_use = machine.device.is_host and dtype == torch.float32
    return Target(machine.device.torch_device, dtype, widens_on_use=widens_on_use)


def network_part(label: str, source: WeightSource, target: Target, build: Callable[[], nn.Module]) -> Part:
    """A network whose weights are those of `source`; `build` makes it, and is called on the meta device."""
    keys = source.keys()
    identity = source.identity(keys[0]) if keys else ""

    def bound() -> nn.Module:
        with torch.device("meta"):
            module = build()
        bind(module, source, target, part=label)
        return module.eval().requires_grad_(False)

    return Part(
        key=f"{label}:{identity}:{len(keys)}:{target.dtype}",
        label=f"{label} of {source.origin.name}",
        num_bytes=held_bytes(source, target),
        build=bound,
    )
