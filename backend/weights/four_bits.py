"""Weights of four bits as bitsandbytes stores them (nf4 and fp4, QLoRA, Dettmers et al. 2023), without that library.

Beside `X.weight`, two codes a byte, the first in the upper half, lie `X.weight.quant_map`, what the 16 codes mean,
`X.weight.absmax`, one scale for each block of numbers, and `X.weight.quant_state.bitsandbytes__nf4`, the shape and the
lengths of blocks as JSON. The scales may be codes themselves, with `nested_quant_map`, `nested_absmax` and an offset.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backend.errors import BadCheckpoint, UnsupportedCheckpoint
from backend.weights.packed_source import PackedSource, PackedWeight, copied
from backend.weights.packing import Packing
from backend.weights.source import Computed, TensorSpec, WeightSource

_STATES = {".quant_state.bitsandbytes__nf4": "nf4", ".quant_state.bitsandbytes__fp4": "fp4"}
_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
_INT8 = ".SCB"
_MAX_STATE_BYTES = 4096
_MAX_ELEMENTS = 2**40
_SCALE_BYTES = 4
_PIECE = 2**18  # numbers at a time on a CPU: what is made of them stays in the processor's cache


def with_four_bits(source: WeightSource) -> WeightSource:
    """Weights of four bits as one packed weight each, without the keys that belong to them; or the source as it is.

    Raises BadCheckpoint for parts that do not fit each other, and UnsupportedCheckpoint for bitsandbytes' eight bits.
    """
    keys = frozenset(source.keys())
    if eight := next((key for key in source.keys() if key.endswith(_INT8)), None):
        raise UnsupportedCheckpoint(
            source.origin,
            f'it has int8 weights of bitsandbytes ("{eight}"), which this version does not read. '
            "Choose a file with fp8, GGUF or nf4 weights.",
        )
    found = {key.removesuffix(end): key for key in keys for end in _STATES if key.endswith(end)}
    if not found:
        return source
    hidden = {weight + part for weight in found for part in _PARTS} | set(found.values())
    weights = {weight: _read_state(source, keys, weight, state) for weight, state in found.items()}
    packed: dict[str, PackedWeight] = {key: weight for key, weight in weights.items() if weight.has_whole_rows}
    rest = {key: weight.computed() for key, weight in weights.items() if not weight.has_whole_rows}
    result = PackedSource(source, packed, hidden)
    return Computed(result, rest) if rest else result


@dataclass(frozen=True, kw_only=True)
class _Nesting:
    """How the scales are scaled. block: how many share a scale of their own."""

    block: int
    offset: float


@dataclass(frozen=True, kw_only=True)
class _FourBits:
    """A weight. block: how many numbers share a scale."""

    source: WeightSource
    key: str
    name: str
    shape: tuple[int, ...]
    block: int
    nesting: _Nesting | None

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.shape, torch.float32)

    @property
    def has_whole_rows(self) -> bool:
        return len(self.shape) >= 2 and math.prod(self.shape[1:]) % self.block == 0

    @property
    def row_bytes(self) -> int:
        numbers = math.prod(self.shape[1:])
        return numbers // 2 + numbers // self.block * _SCALE_BYTES

    def packing(self) -> Packing:
        unpack = _UnpackRows(_Codes(copied(self.source, self.key + ".quant_map")), self.block, self.shape[1:])
        return Packing(name=self.name, row_bytes=self.row_bytes, unpack=unpack)

    def read_rows(self) -> Tensor:
        out = torch.empty(self.shape[0] * self.row_bytes, dtype=torch.uint8)
        self.read_rows_into(out)
        return out

    def read_rows_into(self, out: Tensor) -> None:
        """The scales of a row lie behind its codes."""
        rows = out.view(self.shape[0], -1)
        codes = self._codes().view(rows.shape[0], -1)
        rows[:, : codes.shape[1]].copy_(codes)
        rows[:, codes.shape[1] :].copy_(self._scales().view(rows.shape[0], -1).view(torch.uint8))

    @property
    def identity(self) -> str:
        return f"{self.source.identity(self.key)} unpacked"

    def computed(self) -> tuple[TensorSpec, Callable[[], Tensor], str]:
        """A weight whose blocks reach from one row into the next, unpacked as a whole."""
        return self.spec, self._numbers, self.identity

    def _numbers(self) -> Tensor:
        numbers = _Codes(copied(self.source, self.key + ".quant_map"))(self._codes())
        scales = self._scales().repeat_interleave(self.block)
        count = math.prod(self.shape)
        return (numbers[:count] * scales[:count]).view(self.shape)

    def _codes(self) -> Tensor:
        codes = torch.empty(self.source.storage_bytes(self.key), dtype=torch.uint8)
        self.source.read_storage_into(self.key, codes)
        return codes

    def _scales(self) -> Tensor:
        stored = copied(self.source, self.key + ".absmax").flatten()
        if self.nesting is None:
            return stored
        meaning = copied(self.source, self.key + ".nested_quant_map")
        outer = copied(self.source, self.key + ".nested_absmax").repeat_interleave(self.nesting.block)
        return meaning[stored.int()] * outer[: stored.numel()] + self.nesting.offset


@dataclass(frozen=True)
class _Codes:
    """Bytes [...] of two codes each -> numbers [..., twice as many at the end] of float32, by a table of all bytes."""

    meaning: Tensor
    _tables: dict[torch.device, Tensor] = field(default_factory=dict[torch.device, Tensor], repr=False, compare=False)

    def __call__(self, codes: Tensor) -> Tensor:
        if codes.device not in self._tables:
            every = torch.arange(256)
            pairs = torch.stack([self.meaning[every >> 4], self.meaning[every & 15]], dim=1).contiguous()
            self._tables[codes.device] = pairs.view(torch.int64).flatten().to(codes.device)
        found = torch.index_select(self._tables[codes.device], 0, codes.flatten().to(torch.int32))
        return found.view(torch.float32).view(*codes.shape[:-1], -1)


@dataclass(frozen=True)
class _UnpackRows:
    codes: _Codes
    block: int
    row_shape: tuple[int, ...]

    def __call__(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        numbers = math.prod(self.row_shape)
        out = torch.empty(rows.shape[0], numbers // self.block, self.block, dtype=dtype, device=rows.device)
        step = max(1, _PIECE // numbers) if rows.device.type == "cpu" else max(1, rows.shape[0])
        for piece, place in zip(rows.split(step), out.split(step), strict=True):
            scales = piece[:, numbers // 2 :].contiguous().view(torch.float32)
            place.copy_(self.codes(piece[:, : numbers // 2]).view(place.shape).mul_(scales[:, :, None]))
        return out.view(-1, *self.row_shape)


def _read_state(source: WeightSource, keys: frozenset[str], key: str, state_key: str) -> _FourBits:
    name = next(name for end, name in _STATES.items() if state_key.endswith(end))
    weight = _described(source, key, state_key, name, is_nested=key + ".nested_absmax" in keys)
    _check(source, keys, weight)
    return weight


def _described(source: WeightSource, key: str, state_key: str, name: str, *, is_nested: bool) -> _FourBits:
    content: Any = None
    if source.spec(state_key).num_bytes <= _MAX_STATE_BYTES:
        try:
            content = json.loads(copied(source, state_key).flatten().view(torch.uint8).numpy().tobytes())
        except (ValueError, RecursionError):
            content = None
    match content:
        case {"blocksize": int() as block, "shape": list() as lengths}:
            shape: list[Any] = lengths
        case _:
            raise BadCheckpoint(source.origin, f'"{state_key}" cannot be read. Download it again.')
    if not all(type(length) is int and length > 0 for length in shape) or not 0 < math.prod(shape) < _MAX_ELEMENTS:
        raise BadCheckpoint(source.origin, f'"{key}" has an impossible shape. Download it again.')
    if block < 2 or block % 2:
        raise BadCheckpoint(source.origin, f'"{state_key}" cannot be read. Download it again.')
    nesting = None
    if is_nested:
        match content:
            case {"nested_blocksize": int() as outer, "nested_offset": int() | float() as offset} if outer > 0:
                nesting = _Nesting(block=outer, offset=float(offset))
            case _:
                raise BadCheckpoint(source.origin, f'"{state_key}" cannot be read. Download it again.')
    return _FourBits(source=source, key=key, name=name, shape=tuple(shape), block=block, nesting=nesting)


def _check(source: WeightSource, keys: frozenset[str], weight: _FourBits) -> None:
    """Whether every part is there, of the right type and as long as the others ask for."""
    count = math.prod(weight.shape)
    num_scales = -(-count // weight.block)
    expected = {"": (torch.uint8, -(-count // 2)), ".quant_map": (torch.float32, 16)}
    if weight.nesting is None:
        expected[".absmax"] = (torch.float32, num_scales)
    else:
        expected[".absmax"] = (torch.uint8, num_scales)
        expected[".nested_absmax"] = (torch.float32, -(-num_scales // weight.nesting.block))
        expected[".nested_quant_map"] = (torch.float32, 256)
    for part, (dtype, length) in expected.items():
        name = weight.key + part
        if name not in keys:
            raise BadCheckpoint(source.origin, f'"{name}" is missing. Download it again.')
        if (source.spec(name).dtype, source.spec(name).num_elements) != (dtype, length):
            raise BadCheckpoint(source.origin, f'"{name}" does not fit "{weight.key}". Download it again.')
