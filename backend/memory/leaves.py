"""The layers of a network that have weights, and the bytes of each as one piece."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from backend.memory.layouts import Layout, layout_beside, layout_in, put
from backend.memory.matching_keys import check_keys
from backend.memory.part import Part
from backend.weights.source import WeightSource

_TENSOR_STEP = 64  # bytes: what vector units like best
_LEAF_STEP = 512  # bytes: what device allocators count in
_LOW_RANK = "low_rank"  # what layers call the products that are added to their weight


@dataclass(frozen=True)
class LeafTensor:
    """A weight of a layer, or what is added to one. key: the weight's name in the source. offset: in the bytes of the
    layer. slot: what is in its place while it is not in memory."""

    attribute: str
    key: str
    layout: Layout
    offset: int
    slot: Tensor | None


@dataclass(frozen=True, eq=False)
class Leaf:
    """A layer with weights. They lie one behind the other, so that one copy moves them all.

    has_children: it holds other layers, which run inside of its own forward.
    """

    name: str
    module: nn.Module
    tensors: tuple[LeafTensor, ...]
    num_bytes: int
    has_children: bool
    source: WeightSource

    @cached_property
    def identity(self) -> str:
        """Equal for layers that hold equal bytes in the same way."""
        told = [f"{t.attribute} {self.source.identity(t.key)} {t.layout.way}" for t in self.tensors]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    def within(self, buffer: Tensor) -> dict[str, Tensor]:
        """The weights as views of the layer's bytes, by attribute."""
        return {
            tensor.attribute: tensor.layout.within(buffer[tensor.offset : tensor.offset + tensor.layout.num_bytes])
            for tensor in self.tensors
        }

    def place(self, weights: Mapping[str, Tensor]) -> None:
        for tensor in self.tensors:
            is_parameter = isinstance(tensor.slot, nn.Parameter)
            put(self.module, tensor.attribute, tensor.layout, weights[tensor.attribute], is_parameter=is_parameter)

    def remove(self) -> None:
        """Leave a network as it was built: without memory."""
        for tensor in self.tensors:
            setattr(self.module, tensor.attribute, tensor.slot)


def leaves_of(module: nn.Module, part: Part) -> tuple[Leaf, ...]:
    """The layers of a network on the meta device, in the order in which it was put together.

    Raises KeysDoNotMatch when names or shapes are not those of the source.
    """
    slots: dict[str, Tensor] = dict(module.state_dict(keep_vars=True))
    check_keys({name: slot.shape for name, slot in slots.items()}, part.source, part.label)
    owners: dict[nn.Module, str] = {}
    tensors: dict[nn.Module, dict[str, tuple[str, Tensor]]] = {}
    for name, slot in slots.items():
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        owners.setdefault(owner, path)
        tensors.setdefault(owner, {})[attribute] = (name, slot)
    unknown = (set(part.once) | set(part.tables)) - set(owners.values())
    if unknown:
        raise ValueError(f"{part.label} has no layer with weights named {sorted(unknown)[0]!r}")
    return tuple(_leaf(owner, path, tensors[owner], part) for owner, path in owners.items())


def _leaf(owner: nn.Module, name: str, slots: Mapping[str, tuple[str, Tensor]], part: Part) -> Leaf:
    tensors: list[LeafTensor] = []
    end = 0
    for attribute, (key, slot) in slots.items():
        layout = layout_in(owner, attribute, part.source, key, part.target)
        tensors.append(LeafTensor(attribute, key, layout, end, slot))
        end = _rounded_up(end + layout.num_bytes, _TENSOR_STEP)
        if (beside := layout_beside(layout, part.target)) is not None:
            tensors.append(LeafTensor(_LOW_RANK, key, beside, end, None))
            end = _rounded_up(end + beside.num_bytes, _TENSOR_STEP)
    has_children = next(owner.children(), None) is not None
    return Leaf(name, owner, tuple(tensors), _rounded_up(end, _LEAF_STEP), has_children, part.source)


def total_bytes(leaves: Sequence[Leaf]) -> int:
    return sum(leaf.num_bytes for leaf in leaves)


def frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)


def on_meta(part: Part) -> nn.Module:
    """The network of a part without memory for its weights."""
    with torch.device("meta"):
        module = part.build()
    return frozen(module)


def _rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step
