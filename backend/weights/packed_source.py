"""A source in which some weights are made of several tensors of the file: codes, and the scales that belong to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from backend.weights.packing import Packing, unpack_into
from backend.weights.source import TensorSpec, WeightSource


class PackedWeight(Protocol):
    """One of those weights. Its rows, [rows, row_bytes] of uint8, hold all that is needed to unpack them."""

    @property
    def spec(self) -> TensorSpec:
        """Its shape, and float32."""
        ...

    @property
    def row_bytes(self) -> int: ...

    def packing(self) -> Packing:
        """Raises BadCheckpoint: it may read a few numbers."""
        ...

    def read_rows(self) -> Tensor:
        """All rows as [bytes] of uint8, a view of the file where they lie there as they are. Raises BadCheckpoint."""
        ...

    def read_rows_into(self, out: Tensor) -> None:
        """All rows into [bytes] of uint8 on any device. Raises BadCheckpoint."""
        ...

    @property
    def identity(self) -> str: ...


class PackedSource:
    """Another source with packed weights in place of what they are made of."""

    def __init__(self, source: WeightSource, weights: Mapping[str, PackedWeight], hidden: Collection[str]) -> None:
        self._source = source
        self._weights = dict(weights)
        self._keys = tuple(key for key in source.keys() if key not in frozenset(hidden))

    def keys(self) -> Sequence[str]:
        return self._keys

    def spec(self, key: str) -> TensorSpec:
        return self._weights[key].spec if key in self._weights else self._source.spec(key)

    def read(self, key: str) -> Tensor:
        if key not in self._weights:
            return self._source.read(key)
        out = torch.empty(self._weights[key].spec.shape, dtype=torch.float32)
        self.read_into(key, out)
        return out

    def read_into(self, key: str, out: Tensor) -> None:
        if key not in self._weights:
            self._source.read_into(key, out)
            return
        stored = torch.empty(self.storage_bytes(key), dtype=torch.uint8)
        self._weights[key].read_rows_into(stored)
        unpack_into(self._weights[key].packing(), stored, out)

    def is_made(self, key: str) -> bool:
        return key in self._weights or self._source.is_made(key)

    def packing(self, key: str) -> Packing | None:
        return self._weights[key].packing() if key in self._weights else self._source.packing(key)

    def storage_bytes(self, key: str) -> int:
        if key not in self._weights:
            return self._source.storage_bytes(key)
        return self._weights[key].spec.shape[0] * self._weights[key].row_bytes

    def read_storage(self, key: str) -> Tensor:
        return self._weights[key].read_rows() if key in self._weights else self._source.read_storage(key)

    def read_storage_into(self, key: str, out: Tensor) -> None:
        if key in self._weights:
            self._weights[key].read_rows_into(out)
        else:
            self._source.read_storage_into(key, out)

    def identity(self, key: str) -> str:
        return self._weights[key].identity if key in self._weights else self._source.identity(key)

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._source.metadata

    @property
    def origin(self) -> Path:
        return self._source.origin


def copied(source: WeightSource, key: str) -> Tensor:
    """A small tensor of a source in memory of its own. Raises KeyError and BadCheckpoint."""
    spec = source.spec(key)
    out = torch.empty(spec.shape, dtype=spec.dtype)
    source.read_into(key, out)
    return out
