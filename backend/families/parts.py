"""The parts of a model as residency holds them: a network, the source of its weights, and how they are held."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection

import torch
from torch import nn

from backend.families.family import Machine
from backend.memory.layouts import Target
from backend.memory.part import Part
from backend.weights.source import WeightSource


def target_for(machine: Machine, dtype: torch.dtype) -> Target:
    """Weights of a network that computes in `dtype`: narrower ones stay as the file has them and widen on use."""
    widens_on_use = machine.device.is_host and dtype == torch.float32
    return Target(machine.device.torch_device, dtype, widens_on_use=widens_on_use)


def network_part(
    label: str,
    source: WeightSource,
    target: Target,
    build: Callable[[], nn.Module],
    *,
    once: Collection[str] = (),
    tables: Collection[str] = (),
    often: Collection[str] = (),
) -> Part:
    """A network whose weights are those of `source`; `build` makes it, and is called on the meta device.

    once, tables, often: see `Part`.
    """
    keys = source.keys()
    identity = hashlib.sha256("\n".join(f"{key} {source.identity(key)}" for key in keys).encode()).hexdigest()[:32]
    return Part(
        key=f"{label}:{identity}:{target.dtype}",
        label=label,
        source=source,
        target=target,
        build=build,
        once=once,
        tables=tables,
        often=often,
    )
