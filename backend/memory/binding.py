"""Give a network that was built without memory its weights, straight from a source."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backend.errors import KeysDoNotMatch
from backend.weights.source import WeightSource

_THREADS = 4  # page faults of a mapped file are taken one at a time per thread


@dataclass(frozen=True)
class Target:
    """How weights are held: floating-point ones as `dtype` on `device`, the kernels of convolutions channels-last."""

    device: torch.device
    dtype: torch.dtype


def bind(module: nn.Module, source: WeightSource, target: Target, *, part: str) -> None:
    """Assign every parameter and buffer of `module`, which was built on the meta device, from `source`.

    A tensor that already has the wanted type and layout stays a view of the file's memory map and costs no memory.
    Raises KeysDoNotMatch, which names missing, unexpected and mis-shaped keys of `part`; the module is then unchanged.
    """
    slots = {name: tensor.shape for name, tensor in module.state_dict().items()}
    check_keys(slots, source, part)
    with ThreadPoolExecutor(_THREADS) as threads:
        tensors = dict(zip(slots, threads.map(lambda name: _held(source.read(name), target), slots), strict=True))
    owners = dict(module.named_modules())
    parameters = {name for name, _ in module.named_parameters()}
    for name, tensor in tensors.items():
        owner, _, attribute = name.rpartition(".")
        value = nn.Parameter(tensor, requires_grad=False) if name in parameters else tensor
        setattr(owners[owner], attribute, value)


def check_keys(slots: dict[str, torch.Size], source: WeightSource, part: str) -> None:
    """Compare names and shapes, from headers alone. Raises KeysDoNotMatch."""
    keys = set(source.keys())
    missing = [name for name in slots if name not in keys]
    unexpected = [key for key in source.keys() if key not in slots]
    misshaped = [
        f"{name} {list(source.spec(name).shape)} instead of {list(shape)}"
        for name, shape in slots.items()
        if name in keys and source.spec(name).shape != tuple(shape)
    ]
    if missing or unexpected or misshaped:
        raise KeysDoNotMatch(source.origin, part, missing=missing, unexpected=unexpected, misshaped=misshaped)


def _held(tensor: Tensor, target: Target) -> Tensor:
    is_kernel = tensor.dim() == 4 and max(tensor.shape[2:]) > 1
    return tensor.to(
        device=target.device,
        dtype=target.dtype if tensor.is_floating_point() else tensor.dtype,
        memory_format=torch.channels_last if is_kernel else torch.preserve_format,
    )
