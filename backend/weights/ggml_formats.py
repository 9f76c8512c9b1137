"""The number formats of GGUF files: blocks of a few bits a number that share scales, as numbers again.

The formulas are those of llama.cpp's ggml-quants, in float32 and in its order of operations, so that results are equal
bit for bit. Shapes: N blocks of [N, block_bytes] bytes become [N, block_numbers] numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_PIECE = 2**18  # numbers at a time on a CPU: what is made of them stays in the processor's cache
_EIGHT_TIMES = int.from_bytes(bytes([1] * 8), "little")  # a byte times this is that byte eight times
_ONE_BIT_EACH = int.from_bytes(bytes(1 << place for place in range(8)), "little", signed=True)


@dataclass(frozen=True, kw_only=True)
class GgmlFormat:
    """block_numbers: how many numbers share a block; block_bytes: what it takes; unpack: blocks -> float32."""

    name: str
    block_numbers: int
    block_bytes: int
    unpack: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class GgmlRows:
    """Unpacks rows that are whole numbers of blocks: a packing's `unpack`."""

    format: GgmlFormat
    row_shape: tuple[int, ...]

    def __call__(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        blocks = rows.reshape(-1, self.format.block_bytes)
        numbers = torch.empty(blocks.shape[0], self.format.block_numbers, dtype=dtype, device=rows.device)
        step = _PIECE // self.format.block_numbers if rows.device.type == "cpu" else max(1, blocks.shape[0])
        for piece, out in zip(blocks.split(step), numbers.split(step), strict=True):
            out.copy_(self.format.unpack(piece))
        return numbers.view(-1, *self.row_shape)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape) // self.format.block_numbers * self.format.block_bytes


def _q4_0(blocks: Tensor) -> Tensor:
    return _fields(blocks[:, 2:], 4, 16).float().sub_(8.0).mul_(_half(blocks, 0))


def _q4_1(blocks: Tensor) -> Tensor:
    return _fields(blocks[:, 4:], 4, 16).float().mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _q5_0(blocks: Tensor) -> Tensor:
    return _with_fifth_bit(blocks[:, 6:], blocks[:, 2:6]).sub_(16.0).mul_(_half(blocks, 0))


def _q5_1(blocks: Tensor) -> Tensor:
    return _with_fifth_bit(blocks[:, 8:], blocks[:, 4:8]).mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].view(torch.int8).float().mul_(_half(blocks, 0))


def _q2_k(blocks: Tensor) -> Tensor:
    scales, mins = blocks[:, :16] & 15, blocks[:, :16] >> 4
    codes = _fields(blocks[:, 16:80], 2, 32).float().view(-1, 16, 16)
    scaled = codes.mul_((_half(blocks, 80) * scales)[..., None])
    return scaled.sub_((_half(blocks, 82) * mins)[..., None]).flatten(1)


def _q3_k(blocks: Tensor) -> Tensor:
    """Sixteen scales of six bits, four of which lie in the first eight bytes and two in the last four."""
    low, high = _fields(blocks[:, 96:104], 4, 8), _fields(blocks[:, 104:108], 2, 4)
    scales = (low | (high << 4)).float().sub_(32.0)
    third_bit = _fields(blocks[:, :32], 1, 32)  # set where nothing is to be subtracted
    codes = (_fields(blocks[:, 32:96], 2, 32) | (third_bit << 2)).float().sub_(4.0)
    return codes.view(-1, 16, 16).mul_((_half(blocks, 108) * scales)[..., None]).flatten(1)


def _q4_k(blocks: Tensor) -> Tensor:
    return _scaled_and_shifted(_fields(blocks[:, 16:], 4, 32), blocks)


def _q5_k(blocks: Tensor) -> Tensor:
    return _scaled_and_shifted(_fields(blocks[:, 48:], 4, 32) | (_fields(blocks[:, 16:48], 1, 32) << 4), blocks)


def _q6_k(blocks: Tensor) -> Tensor:
    codes = _fields(blocks[:, :128], 4, 64) | (_fields(blocks[:, 128:192], 2, 32) << 4)
    scales = _half(blocks, 208) * blocks[:, 192:208].view(torch.int8)
    return codes.float().sub_(32.0).view(-1, 16, 16).mul_(scales[..., None]).flatten(1)


def _scaled_and_shifted(codes: Tensor, blocks: Tensor) -> Tensor:
    """Codes [N, 256] in eight groups, each with a scale and a minimum of six bits that lie in bytes 4 to 16."""
    first, second, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat([first & 63, (rest & 15) | ((first >> 2) & 48)], dim=1)
    mins = torch.cat([second & 63, (rest >> 4) | ((second >> 2) & 48)], dim=1)
    scaled = codes.float().view(-1, 8, 32).mul_((_half(blocks, 0) * scales)[..., None])
    return scaled.sub_((_half(blocks, 2) * mins)[..., None]).flatten(1)


def _half(blocks: Tensor, begin: int) -> Tensor:
    """The float16 number at a place in each block, [N, 1]."""
    return blocks[:, begin : begin + 2].contiguous().view(torch.float16).float()


def _with_fifth_bit(packed: Tensor, bits: Tensor) -> Tensor:
    """Numbers of five bits as float32; `bits` [N, 4] holds the upper one of each, eight a byte."""
    copies = bits.long() * _EIGHT_TIMES
    fifth = (copies & _ONE_BIT_EACH).view(torch.uint8).clamp_(max=1)  # bit i of a byte in byte i
    return (_fields(packed, 4, 16) | (fifth << 4)).float()


def _fields(packed: Tensor, bits: int, width: int) -> Tensor:
    """Numbers of a few bits: of each `width` bytes first all the lowest fields, then all the next."""
    groups = packed.reshape(packed.shape[0], -1, 1, width)
    shifted = torch.cat([groups >> shift for shift in range(0, 8, bits)], dim=2)
    return (shifted & (2**bits - 1)).flatten(1)


def _format(name: str, block_numbers: int, block_bytes: int, unpack: Callable[[Tensor], Tensor]) -> GgmlFormat:
    return GgmlFormat(name=name, block_numbers=block_numbers, block_bytes=block_bytes, unpack=unpack)


# By the number that stands in files.
FORMATS = {
    2: _format("Q4_0", 32, 18, _q4_0),
    3: _format("Q4_1", 32, 20, _q4_1),
    6: _format("Q5_0", 32, 22, _q5_0),
    7: _format("Q5_1", 32, 24, _q5_1),
    8: _format("Q8_0", 32, 34, _q8_0),
    10: _format("Q2_K", 256, 84, _q2_k),
    11: _format("Q3_K", 256, 110, _q3_k),
    12: _format("Q4_K", 256, 144, _q4_k),
    13: _format("Q5_K", 256, 176, _q5_k),
    14: _format("Q6_K", 256, 210, _q6_k),
}
PLAIN = {
    0: torch.float32,
    1: torch.float16,
    24: torch.int8,
    25: torch.int16,
    26: torch.int32,
    27: torch.int64,
    28: torch.float64,
    30: torch.bfloat16,
}
# Formats that are known and not read, to name them.
OTHER = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
