"""Numbers of eight bits as wider ones, which each of them is exactly, without PyTorch's slow conversion on a CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_PIECE = 2**18  # bytes at a time: what is made of them stays in the processor's cache
_PAIRS = 2**16
_PAIR_OF = {2: torch.int32, 4: torch.int64}  # by size of a number: an integer as large as two of them


@dataclass(frozen=True)
class Fp8:
    """One of the two formats of eight bits: numbers [...] of uint8 and a type -> numbers [...] of that type.

    On a CPU two codes at a time are looked up in a table of all pairs, which is made when it is first needed (a
    millisecond, 256 or 512 KiB). That is about ten times as fast as PyTorch's conversion, of which the table is made.
    """

    dtype: torch.dtype
    _tables: dict[torch.dtype, Tensor] = field(default_factory=dict[torch.dtype, Tensor], repr=False, compare=False)

    def __call__(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        if codes.device.type != "cpu" or dtype.itemsize not in _PAIR_OF or not codes.is_contiguous():
            return codes.contiguous().view(self.dtype).to(dtype)
        out = torch.empty(codes.shape, dtype=dtype)
        self._look_up(codes.flatten(), out.view(-1))
        return out

    def _look_up(self, codes: Tensor, out: Tensor) -> None:
        if codes.data_ptr() % 2 or codes.storage_offset() % 2:
            codes = codes.clone()
        paired = codes.numel() // 2 * 2
        pairs, rest = codes[:paired].view(torch.uint16), codes[paired:]
        table = self._table(out.dtype)
        found = out[:paired].view(table.dtype)
        for start in range(0, pairs.numel(), _PIECE // 2):
            piece = slice(start, start + _PIECE // 2)
            torch.index_select(table, 0, pairs[piece].to(torch.int32), out=found[piece])
        if rest.numel():
            out[paired:].copy_(rest.view(self.dtype))

    def _table(self, dtype: torch.dtype) -> Tensor:
        """For each pair of codes, both numbers, seen as one integer."""
        if dtype not in self._tables:
            codes = torch.arange(_PAIRS, dtype=torch.int32).to(torch.uint16).view(torch.uint8)
            self._tables[dtype] = codes.view(self.dtype).to(dtype).view(_PAIR_OF[dtype.itemsize])
        return self._tables[dtype]


@dataclass(frozen=True)
class Fp8Rows:
    """Unpacks rows of eight-bit numbers: a packing's `unpack`."""

    numbers: Fp8
    row_shape: tuple[int, ...]

    def __call__(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        return self.numbers(rows, dtype).view(-1, *self.row_shape)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape)
