"""How single weights are held, and how they get there from a source."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from backend.weights.low_rank import LowRank
from backend.weights.packing import Adaptable, Packable, Packing
from backend.weights.source import TensorSpec, WeightSource


@dataclass(frozen=True)
class Target:
    """How weights are held: floating-point ones as `dtype` on `device`, the kernels of convolutions channels-last.

    widens_on_use: half-precision weights, and those that are of `dtype` already, stay as the file has them. For
    networks on the host whose layers widen them (backend/nn/layers.py).
    Weights that a source has packed stay so in layers that can unpack them.
    """

    device: torch.device
    dtype: torch.dtype
    widens_on_use: bool = False


@dataclass(frozen=True)
class Layout:
    """How a weight is held. is_channels_last: a kernel. is_as_stored: on the host a view of the file will do, and there
    is one.

    packing: of rows [rows, row_bytes] of uint8, which is then the shape here.
    low_rank: of products [bytes] of uint8 that are added to a packed weight, and lie beside it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    is_channels_last: bool = False
    is_as_stored: bool = False
    packing: Packing | None = None
    low_rank: LowRank | None = None

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def way(self) -> str:
        """Equal for weights that are held in the same way."""
        packing = "" if self.packing is None else f"{self.packing.name} {self.packing.row_bytes}"
        products = "" if self.low_rank is None else self.low_rank.way
        return f"{self.shape} {self.dtype} {self.is_channels_last} {packing} {products}"

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

    def view_of(self, source: WeightSource, key: str) -> Tensor:
        """A weight that is held as it is stored: a view of the file where that can be. Raises BadCheckpoint."""
        return source.read(key) if self.packing is None else source.read_storage(key).view(self.shape)

    def read_into(self, source: WeightSource, key: str, out: Tensor) -> None:
        """Fill `out`, of this layout and on any device. Raises BadCheckpoint."""
        if self.low_rank is not None:
            self.low_rank.read_into(out)
        elif self.packing is None:
            source.read_into(key, out)
        else:
            source.read_storage_into(key, out.flatten())


def layout_in(owner: nn.Module, attribute: str, source: WeightSource, key: str, target: Target) -> Layout:
    """How the weight that `owner` has as `attribute` is to be held."""
    packing = source.packing(key) if attribute == "weight" and isinstance(owner, Packable) else None
    if packing is None or (packing.low_rank is not None and not isinstance(owner, Adaptable)):
        layout = layout_of(source.spec(key), target)
        return replace(layout, is_as_stored=False) if layout.is_as_stored and source.is_made(key) else layout
    shape = (source.spec(key).shape[0], packing.row_bytes)
    return Layout(shape, torch.uint8, is_as_stored=target.device.type == "cpu", packing=packing)


def layout_beside(layout: Layout, target: Target) -> Layout | None:
    """How products are to be held that are added to a weight which is held by `layout`; None where there are none."""
    low_rank = None if layout.packing is None else layout.packing.low_rank
    if low_rank is None:
        return None
    held = low_rank.held_as(target.dtype) if target.dtype.itemsize == 2 else low_rank
    return Layout((held.num_bytes,), torch.uint8, low_rank=held)


def layout_of(spec: TensorSpec, target: Target) -> Layout:
    """How a weight that is not packed is to be held."""
    dtype = _held_dtype(spec, target)
    if target.widens_on_use and dtype == spec.dtype:
        return Layout(spec.shape, dtype, is_as_stored=True)
    is_kernel = len(spec.shape) == 4 and max(spec.shape[2:]) > 1
    is_as_stored = dtype == spec.dtype and target.device.type == "cpu" and not is_kernel
    return Layout(spec.shape, dtype, is_channels_last=is_kernel, is_as_stored=is_as_stored)


def put(owner: nn.Module, attribute: str, layout: Layout, weight: Tensor, *, is_parameter: bool) -> None:
    """Make a weight that was held by `layout` an attribute of its layer."""
    if layout.low_rank is not None and isinstance(owner, Adaptable):
        owner.low_rank = layout.low_rank.within(weight)
        return
    if isinstance(owner, Packable) and attribute == "weight":
        owner.unpack_weight = None if layout.packing is None else layout.packing.unpack
    setattr(owner, attribute, nn.Parameter(weight, requires_grad=False) if is_parameter else weight)


def _held_dtype(spec: TensorSpec, target: Target) -> torch.dtype:
    if not spec.dtype.is_floating_point or (target.widens_on_use and spec.dtype in (torch.float16, torch.bfloat16)):
        return spec.dtype
    return target.dtype
