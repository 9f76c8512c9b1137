"""Give a network that was built without memory its weights, straight from a source."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backend.errors import KeysDoNotMatch
from backend.weights.source import TensorSpec, WeightSource

# A disk is read faster with several requests under way, and one thread converts while another reads.
_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Target:
    """How weights are held: floating-point ones as `dtype` on `device`, the kernels of convolutions channels-last.

    widens_on_use: half-precision weights, and those that are of `dtype` already, stay as the file has them. For
    networks on the host whose layers widen them (backend/nn/layers.py).
    """

    device: torch.device
    dtype: torch.dtype
    widens_on_use: bool = False


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
    layouts = {name: layout_of(source.spec(name), target) for name in slots}
    rooms = {name: None if layout.is_as_stored else layout.empty(target.device) for name, layout in layouts.items()}

    def filled(name: str) -> Tensor:
        room = rooms[name]
        if room is None:
            return source.read(name)
        source.read_into(name, room)
        return room

    with ThreadPoolExecutor(_THREADS) as threads:
        tensors = dict(zip(slots, threads.map(filled, slots), strict=True))
    for name, tensor in tensors.items():
        owner, _, attribute = name.rpartition(".")
        value = nn.Parameter(tensor, requires_grad=False) if isinstance(slots[name], nn.Parameter) else tensor
        setattr(module.get_submodule(owner), attribute, value)


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


@dataclass(frozen=True)
class Layout:
    """How a weight is held. is_channels_last: a kernel. is_as_stored: on the host a view of the file will do."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    is_channels_last: bool
    is_as_stored: bool

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def empty(self, device: torch.device) -> Tensor:
        """Memory of its own."""
        layout = torch.channels_last if self.is_channels_last else torch.contiguous_format
        return torch.empty(self.shape, dtype=self.dtype, device=device, memory_format=layout)

    def within(self, buffer: Tensor) -> Tensor:
        """The weight as a view of `num_bytes` bytes, which lie at a multiple of its item size."""
        flat = buffer.view(self.dtype)
        if not self.is_channels_last:
            return flat.view(self.shape)
        outputs, channels, height, width = self.shape
        return flat.view(outputs, height, width, channels).permute(0, 3, 1, 2)


def layout_of(spec: TensorSpec, target: Target) -> Layout:
    dtype = _held_dtype(spec, target)
    if target.widens_on_use and dtype == spec.dtype:
        return Layout(spec.shape, dtype, is_channels_last=False, is_as_stored=True)
    is_kernel = len(spec.shape) == 4 and max(spec.shape[2:]) > 1
    is_as_stored = dtype == spec.dtype and target.device.type == "cpu" and not is_kernel
    return Layout(spec.shape, dtype, is_channels_last=is_kernel, is_as_stored=is_as_stored)


def _held_dtype(spec: TensorSpec, target: Target) -> torch.dtype:
    if not spec.dtype.is_floating_point or (target.widens_on_use and spec.dtype in (torch.float16, torch.bfloat16)):
        return spec.dtype
    return target.dtype
