"""Give a network that was built without memory its weights, straight from a source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from backend.errors import KeysDoNotMatch
from backend.memory.layouts import Target, layout_in, layout_of, put
from backend.weights.source import WeightSource

__all__ = ["Target", "bind", "check_keys", "held_bytes"]

# A disk is read faster with several requests under way, and one thread converts while another reads.
_THREADS = min(4, os.cpu_count() or 1)


@torch.inference_mode(False)  # so that weights are ordinary tensors, and threads may write to them
def bind(module: nn.Module, source: WeightSource, target: Target, *, part: str) -> None:
    """Assign every parameter and persistent buffer of `module`, which was built on the meta device, from `source`.

    A tensor that already has the wanted type and layout stays a view of the file's memory map and costs no memory.
    Buffers that no checkpoint holds are the builder's to fill, before or after.
    Raises KeysDoNotMatch, which names missing, unexpected and mis-shaped keys of `part`, and BadCheckpoint; the module
    is then unchanged.
    """
    slots: dict[str, Tensor] = dict(module.state_dict(keep_vars=True))
    check_keys({name: slot.shape for name, slot in slots.items()}, source, part)

    # All memory is taken by one thread: the C library keeps some of what is given back for each that took any.
    layouts = {name: layout_in(*_owner(module, name), source, name, target) for name in slots}
    rooms = {name: None if layout.is_as_stored else layout.empty(target.device) for name, layout in layouts.items()}

    def filled(name: str) -> Tensor:
        room = rooms[name]
        if room is None:
            return layouts[name].view_of(source, name)
        layouts[name].read_into(source, name, room)
        return room

    with ThreadPoolExecutor(_THREADS) as threads:
        tensors = dict(zip(slots, threads.map(filled, slots), strict=True))
    for name, tensor in tensors.items():
        owner, attribute = _owner(module, name)
        put(owner, attribute, layouts[name], tensor, is_parameter=isinstance(slots[name], nn.Parameter))


def held_bytes(source: WeightSource, target: Target) -> int:
    """Bytes of the weights that `bind` holds, views of the file included."""
    return sum(layout_of(source.spec(key), target).num_bytes for key in source.keys())


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


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    return module.get_submodule(path), attribute
