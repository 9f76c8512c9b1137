"""Weights that are held as fewer bits than they are computed with, and become numbers when they are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from backend.weights.low_rank import LowRank, Placed

Unpack = Callable[[Tensor, torch.dtype], Tensor]
_PIECE = 2**20  # numbers unpacked at a time


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a tensor of two or more dimensions is held as bytes: one row for each index of its first axis.

    name: for people, such as "Q4_K", "nf4" or "float8_e4m3fn".
    row_bytes: of one row. Rows know nothing of each other, so that any of them can be unpacked alone.
    unpack: some rows [R, row_bytes] of uint8, on any device, and a floating-point type -> [R, *shape[1:]] of that type
    on the same device: what is exact in float32, rounded once.
    low_rank: what is to be added to the unpacked numbers, None for nothing. The source adds it where it is asked for
    numbers (`read`, `read_into`).
    """

    name: str
    row_bytes: int
    unpack: Unpack
    low_rank: LowRank | None = None


@runtime_checkable
class Packable(Protocol):
    """A layer (backend/nn) that can unpack its parameter `weight` when it uses it.

    To hold it packed, `weight` is a Parameter [rows, row_bytes] of uint8 without gradient and `unpack_weight` the
    packing's `unpack`; to hold it plain, `unpack_weight` is None.
    """

    unpack_weight: Unpack | None


@runtime_checkable
class Adaptable(Protocol):
    """A layer (backend/nn) that can add products to what its parameter `weight` gives, which stays as it is."""

    low_rank: Placed | None


def unpack_into(packing: Packing, stored: Tensor, out: Tensor) -> None:
    """Unpack all rows, which lie in `stored`, [bytes] of uint8, into a tensor of any type, layout and device.

    A part at a time, so that little is held beside both.
    """
    dtype = out.dtype if out.dtype.is_floating_point and out.dtype.itemsize > 1 else torch.float32
    rows = stored.view(-1, packing.row_bytes)
    step = max(1, _PIECE // max(1, out[0].numel()))
    for start in range(0, rows.shape[0], step):
        out[start : start + step].copy_(packing.unpack(rows[start : start + step], dtype))
