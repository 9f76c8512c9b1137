"""Give a network that was built without memory its weights, straight from a source."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backend.errors import KeysDoNotMatch
from backend.weights.source import WeightSource

_THREADS = 4  # a disk is read faster with several requests under way, and one converts while another reads


@dataclass(frozen=True)
class Target:
    """How weights are held: floating-point ones as `dtype` on `device`, the kernels of convolutions channels-last."""

    device: torch.device
    dtype: torch.dtype


def bind(module: nn.Module, source: WeightSource, target: Target, *, part: str) -> None:
    """Assign every parameter and persistent buffer of `module`, which was built on the meta device, from `source`.

    A tensor that already has the wanted type and layout stays a view of the file's memory map and costs no memory.
    Buffers that no checkpoint holds are the builder's to fill, before or after.
    Raises KeysDoNotMatch, which names missing, unexpected and mis-shaped keys of `part`, and BadCheckpoint; the module
    is then unchanged.
    """
    slots: dict[str, Tensor] = dict(module.state_dict(keep_vars=True))
    check_keys({name: slot.shape for name, slot in slots.items()}, source, part)

    def held(name: str) -> Tensor:
        return _held(name, source, target)

    with ThreadPoolExecutor(_THREADS) as threads:
        tensors = dict(zip(slots, threads.map(held, slots), strict=True))
    for name, tensor in tensors.items():
        owner, _, attribute = name.rpartition(".")
        value = nn.Parameter(tensor, requires_grad=False) if isinstance(slots[name], nn.Parameter) else tensor
        setattr(module.get_submodule(owner), attribute, value)


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


def _held(name: str, source: WeightSource, target: Target) -> Tensor:
    spec = source.spec(name)
    dtype = target.dtype if spec.dtype.is_floating_point else spec.dtype
    is_kernel = len(spec.shape) == 4 and max(spec.shape[2:]) > 1
    if dtype == spec.dtype and target.device.type == "cpu" and not is_kernel:
        return source.read(name)
    layout = torch.channels_last if is_kernel else torch.contiguous_format
    out = torch.empty(spec.shape, dtype=dtype, device=target.device, memory_format=layout)
    source.read_into(name, out)
    return out
