"""Eight-bit weights with a scale each, as ComfyUI stores them.

Older files have a key `scaled_fp8`, and `X.scale_weight` and `X.scale_input` beside `X.weight`; newer ones have
`X.weight_scale`, `X.input_scale` and `X.comfy_quant`, which names the format as JSON. The scales of inputs are for
products in eight bits, which are not computed here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backend.errors import BadCheckpoint, UnsupportedCheckpoint
from backend.weights.fp8 import FP8, Fp8
from backend.weights.packed_source import PackedSource, PackedWeight, copied
from backend.weights.packing import Packing
from backend.weights.source import Computed, TensorSpec, WeightSource

_MARKER = "scaled_fp8"
_SCALES = ("scale_weight", "weight_scale")
_IGNORED = ("scale_input", "input_scale", "comfy_quant")
_FORMAT = "comfy_quant"
_MAX_FORMAT_BYTES = 4096
_SCALE_BYTES = 4


def with_scaled_fp8(source: WeightSource) -> WeightSource:
    """Scaled weights as one packed weight each, without the keys that belong to them; or the source as it is.

    Raises UnsupportedCheckpoint for other formats than eight-bit floating-point numbers, and BadCheckpoint for scales
    that do not fit their weights.
    """
    keys = frozenset(source.keys())
    scales = dict(_weights_and_scales(keys))
    hidden = {key for key in keys if key.rpartition(".")[2] in (_MARKER, *_IGNORED)} | set(scales.values())
    if not hidden:
        return source
    numbers = {dtype: Fp8(dtype) for dtype in FP8}
    packed: dict[str, PackedWeight] = {}
    plain: dict[str, str] = {}
    for key, scale in scales.items():
        _check(source, keys, key, scale)
        dtype = source.spec(key).dtype
        if dtype not in numbers or len(source.spec(key).shape) < 2:
            plain[key] = scale
        elif source.spec(scale).num_elements == 1:
            packed[key] = _ScaledOnce(source, key, scale, numbers[dtype])
        else:
            packed[key] = _ScaledByRow(source, key, scale, numbers[dtype])
    result = PackedSource(source, packed, hidden)
    return Computed(result, {key: _computed(source, key, scale) for key, scale in plain.items()}) if plain else result


def _weights_and_scales(keys: frozenset[str]) -> Iterator[tuple[str, str]]:
    for key in keys:
        name = key.rpartition(".")[2]
        weight = key.removesuffix(name) + "weight"
        if name in _SCALES and weight in keys:
            yield weight, key


def _check(source: WeightSource, keys: frozenset[str], key: str, scale: str) -> None:
    weight, factor = source.spec(key), source.spec(scale)
    is_fp8_or_wider = weight.dtype.is_floating_point and weight.dtype != torch.float8_e8m0fnu
    if not is_fp8_or_wider or key + "_scale_2" in keys:
        raise UnsupportedCheckpoint(
            source.origin,
            f'"{key}" is quantised as {_format_name(source, keys, key)}, which this version does not read. '
            "Choose a file with fp8, GGUF or nf4 weights.",
        )
    is_by_row = factor.shape in (weight.shape[:1], (*weight.shape[:1], 1))
    if factor.dtype != torch.float32 or not (factor.num_elements == 1 or is_by_row):
        raise BadCheckpoint(source.origin, f'"{scale}" does not fit "{key}". Download it again.')


def _format_name(source: WeightSource, keys: frozenset[str], key: str) -> str:
    """What the file calls its format, or else its data type."""
    name = key.removesuffix("weight") + _FORMAT
    if name in keys and source.spec(name).num_bytes <= _MAX_FORMAT_BYTES:
        try:
            content: Any = json.loads(copied(source, name).numpy().tobytes())
        except (ValueError, RecursionError):
            content = None
        match content:
            case {"format": str() as text}:
                return ascii(text[:60])
            case _:
                pass
    return str(source.spec(key).dtype).removeprefix("torch.")


def _computed(source: WeightSource, key: str, scale: str) -> tuple[TensorSpec, Any, str]:
    """A weight that is not worth packing: one of full width, or a vector."""
    spec = source.spec(key)

    def make() -> Tensor:
        numbers = torch.empty(spec.shape)
        source.read_into(key, numbers)
        factor = copied(source, scale)
        return numbers * (factor.view(-1, *[1] * (len(spec.shape) - 1)) if factor.numel() > 1 else factor.view(()))

    return TensorSpec(spec.shape, torch.float32), make, f"{source.identity(key)} * {source.identity(scale)}"


@dataclass(frozen=True)
class _ScaledOnce:
    """One scale for all numbers: the rows are those of the file."""

    source: WeightSource
    key: str
    scale: str
    numbers: Fp8

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.source.spec(self.key).shape, torch.float32)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.spec.shape[1:])

    def packing(self) -> Packing:
        scale = float(copied(self.source, self.scale).view(()))
        unpack = _UnpackScaledOnce(self.numbers, scale, self.spec.shape[1:])
        return Packing(name=f"scaled {_name(self.numbers)}", row_bytes=self.row_bytes, unpack=unpack)

    def read_rows(self) -> Tensor:
        return self.source.read_storage(self.key)

    def read_rows_into(self, out: Tensor) -> None:
        self.source.read_storage_into(self.key, out)

    @property
    def identity(self) -> str:
        return f"{self.source.identity(self.key)} * {self.source.identity(self.scale)}"


@dataclass(frozen=True)
class _ScaledByRow(_ScaledOnce):
    """One scale a row, which lies in memory behind the row's numbers."""

    @property
    def row_bytes(self) -> int:
        return math.prod(self.spec.shape[1:]) + _SCALE_BYTES

    def packing(self) -> Packing:
        unpack = _UnpackScaledByRow(self.numbers, self.spec.shape[1:])
        return Packing(name=f"scaled {_name(self.numbers)}", row_bytes=self.row_bytes, unpack=unpack)

    def read_rows(self) -> Tensor:
        out = torch.empty(self.spec.shape[0] * self.row_bytes, dtype=torch.uint8)
        self.read_rows_into(out)
        return out

    def read_rows_into(self, out: Tensor) -> None:
        rows = out.view(self.spec.shape[0], -1)
        codes = torch.empty(self.source.storage_bytes(self.key), dtype=torch.uint8)
        self.source.read_storage_into(self.key, codes)
        rows[:, :-_SCALE_BYTES].copy_(codes.view(rows.shape[0], -1))
        rows[:, -_SCALE_BYTES:].copy_(copied(self.source, self.scale).view(-1, 1).view(torch.uint8))


@dataclass(frozen=True)
class _UnpackScaledOnce:
    numbers: Fp8
    scale: float
    row_shape: tuple[int, ...]

    def __call__(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        return self.numbers(rows, torch.float32).mul_(self.scale).to(dtype).view(-1, *self.row_shape)


@dataclass(frozen=True)
class _UnpackScaledByRow:
    numbers: Fp8
    row_shape: tuple[int, ...]

    def __call__(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        scales = rows[:, -_SCALE_BYTES:].contiguous().view(torch.float32)
        codes = rows[:, :-_SCALE_BYTES].contiguous()
        return self.numbers(codes, torch.float32).mul_(scales).to(dtype).view(-1, *self.row_shape)


def _name(numbers: Fp8) -> str:
    return str(numbers.dtype).removeprefix("torch.")
