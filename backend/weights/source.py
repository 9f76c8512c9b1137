"""Immutable mappings from keys to tensors, of which nothing is read until it is asked for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from backend.errors import BadCheckpoint
from backend.weights.packing import Packing


@dataclass(frozen=True)
class TensorSpec:
    """What a header says about a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * self.dtype.itemsize


class WeightSource(Protocol):
    """Key -> tensor. A composed source is as cheap as its parts: it computes one tensor when that one is asked for.

    What a tensor is stored as may be smaller than what it is read as: `packing`, `storage_bytes`, `read_storage` and
    `read_storage_into` are for those who hold weights as they are stored. All methods may be called by several threads.
    """

    def keys(self) -> Sequence[str]:
        """Ordered names."""
        ...

    def spec(self, key: str) -> TensorSpec:
        """Shape and dtype, without touching the data. Raises KeyError."""
        ...

    def read(self, key: str) -> Tensor:
        """The tensor: a read-only view of the memory-mapped file where it can be one. Raises BadCheckpoint."""
        ...

    def read_into(self, key: str, out: Tensor) -> None:
        """Copy the tensor into `out`, which has its shape and any dtype, layout and device. Raises BadCheckpoint.

        Files are read block by block, so that little is held twice, and a file that is cut off meanwhile is an error
        here, whereas touching a view of it would end the process.
        """
        ...

    def is_made(self, key: str) -> bool:
        """Whether `read` makes the tensor, in memory of its own, so that `read_into` takes no more of it."""
        ...

    def packing(self, key: str) -> Packing | None:
        """How the bytes in storage become numbers; None where they are numbers of the spec's dtype, in order.

        May read a few numbers. Raises KeyError and BadCheckpoint.
        """
        ...

    def storage_bytes(self, key: str) -> int:
        """Bytes that the tensor takes as it is stored, without touching the data. Raises KeyError."""
        ...

    def read_storage(self, key: str) -> Tensor:
        """Those bytes, [storage_bytes] of uint8: a read-only view of the memory-mapped file where it can be one.

        With a packing they are `.view(-1, row_bytes)`, else `.view(spec.dtype).view(spec.shape)` (where that is
        aligned, as all of memory that PyTorch takes itself is). Raises BadCheckpoint.
        """
        ...

    def read_storage_into(self, key: str, out: Tensor) -> None:
        """Copy those bytes into `out`, contiguous [storage_bytes] of uint8 on any device, aligned to 8 bytes.

        Into host memory files are read without another copy. Raises BadCheckpoint.
        """
        ...

    def identity(self, key: str) -> str:
        """Content identity of one tensor: equal identities mean equal tensors."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]: ...

    @property
    def origin(self) -> Path:
        """The file to name in messages."""
        ...


class PlainStorage:
    """How tensors are stored that are what they are read as: a base for sources that have no smaller form of them."""

    def is_made(self: WeightSource, key: str) -> bool:
        self.spec(key)
        return False

    def packing(self: WeightSource, key: str) -> Packing | None:
        self.spec(key)
        return None

    def storage_bytes(self: WeightSource, key: str) -> int:
        return self.spec(key).num_bytes

    def read_storage(self: WeightSource, key: str) -> Tensor:
        return storage_of(self.read(key))

    def read_storage_into(self: WeightSource, key: str, out: Tensor) -> None:
        spec = self.spec(key)
        self.read_into(key, out.view(spec.dtype).view(spec.shape))


class InMemory(PlainStorage):
    """Tensors that are already there."""

    def __init__(
        self, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None, origin: Path | None = None
    ) -> None:
        self._tensors = dict(tensors)
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.origin = origin or Path("memory")

    def keys(self) -> Sequence[str]:
        return tuple(self._tensors)

    def spec(self, key: str) -> TensorSpec:
        tensor = self._tensors[key]
        return TensorSpec(tuple(tensor.shape), tensor.dtype)

    def read(self, key: str) -> Tensor:
        return self._tensors[key]

    def read_into(self, key: str, out: Tensor) -> None:
        out.copy_(self._tensors[key])

    def identity(self, key: str) -> str:
        digest = hashlib.sha256(repr(self.spec(key)).encode())
        digest.update(bytes_of(self._tensors[key]))
        return digest.hexdigest()


class Renamed:
    """A source under other names; keys for which `rename` gives None are left out.

    Raises BadCheckpoint when two keys would get the same name.
    """

    def __init__(self, source: WeightSource, rename: Callable[[str], str | None]) -> None:
        self._source = source
        self._originals: dict[str, str] = {}
        for old in source.keys():
            new = rename(old)
            if new is None:
                continue
            if new in self._originals:
                raise BadCheckpoint(
                    source.origin, f'"{self._originals[new]}" and "{old}" stand for the same weight, "{new}".'
                )
            self._originals[new] = old

    def keys(self) -> Sequence[str]:
        return tuple(self._originals)

    def spec(self, key: str) -> TensorSpec:
        return self._source.spec(self._originals[key])

    def read(self, key: str) -> Tensor:
        return self._source.read(self._originals[key])

    def read_into(self, key: str, out: Tensor) -> None:
        self._source.read_into(self._originals[key], out)

    def is_made(self, key: str) -> bool:
        return self._source.is_made(self._originals[key])

    def packing(self, key: str) -> Packing | None:
        return self._source.packing(self._originals[key])

    def storage_bytes(self, key: str) -> int:
        return self._source.storage_bytes(self._originals[key])

    def read_storage(self, key: str) -> Tensor:
        return self._source.read_storage(self._originals[key])

    def read_storage_into(self, key: str, out: Tensor) -> None:
        self._source.read_storage_into(self._originals[key], out)

    def identity(self, key: str) -> str:
        return self._source.identity(self._originals[key])

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._source.metadata

    @property
    def origin(self) -> Path:
        return self._source.origin


class Described(Renamed):
    """A source with other metadata: `metadata` counts more than what its file says."""

    def __init__(self, source: WeightSource, metadata: Mapping[str, str]) -> None:
        super().__init__(source, lambda key: key)
        self._metadata = {**source.metadata, **metadata}

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._metadata


def with_prefix(source: WeightSource, prefix: str) -> Renamed:
    """The part of a source whose keys start with `prefix`, which is taken off."""
    return Renamed(source, lambda key: key[len(prefix) :] if key.startswith(prefix) else None)


class Computed:
    """A source in which some tensors are computed from others when they are asked for.

    values: key -> (what the header would say, how to make it, its identity).
    """

    def __init__(
        self, source: WeightSource, values: Mapping[str, tuple[TensorSpec, Callable[[], Tensor], str]]
    ) -> None:
        self._source = source
        self._values = dict(values)

    def keys(self) -> Sequence[str]:
        keys = self._source.keys()
        present = frozenset(keys)
        return (*keys, *(key for key in self._values if key not in present))

    def spec(self, key: str) -> TensorSpec:
        return self._values[key][0] if key in self._values else self._source.spec(key)

    def read(self, key: str) -> Tensor:
        return self._values[key][1]() if key in self._values else self._source.read(key)

    def read_into(self, key: str, out: Tensor) -> None:
        if key in self._values:
            out.copy_(self._values[key][1]())
        else:
            self._source.read_into(key, out)

    def is_made(self, key: str) -> bool:
        return key not in self._values and self._source.is_made(key)

    def packing(self, key: str) -> Packing | None:
        return None if key in self._values else self._source.packing(key)

    def storage_bytes(self, key: str) -> int:
        return self._values[key][0].num_bytes if key in self._values else self._source.storage_bytes(key)

    def read_storage(self, key: str) -> Tensor:
        return storage_of(self._values[key][1]()) if key in self._values else self._source.read_storage(key)

    def read_storage_into(self, key: str, out: Tensor) -> None:
        if key in self._values:
            out.copy_(storage_of(self._values[key][1]()))
        else:
            self._source.read_storage_into(key, out)

    def identity(self, key: str) -> str:
        return self._values[key][2] if key in self._values else self._source.identity(key)

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._source.metadata

    @property
    def origin(self) -> Path:
        return self._source.origin


def with_averaged_weights(source: WeightSource) -> WeightSource:
    """The exponential moving average of a full SD checkpoint under the plain names of its U-Net.

    `model_ema.diffusion_modelinput_blocks00weight` is the average of `model.diffusion_model.input_blocks.0.0.weight`:
    its name is the plain one without dots. Raises KeyError when the file holds no average, or one with a gap.
    """
    plain = "model.diffusion_model."
    keys = frozenset(source.keys())
    averages = {
        key: "model_ema." + key.removeprefix("model.").replace(".", "") for key in keys if key.startswith(plain)
    }
    missing = sorted(set(averages.values()) - keys)
    if missing or not averages:
        raise KeyError(missing[0] if missing else "model_ema.")
    kept = {average: key for key, average in averages.items()}
    return Renamed(source, lambda key: kept.get(key) or (None if key.startswith((plain, "model_ema.")) else key))


def storage_of(tensor: Tensor) -> Tensor:
    """The elements of a tensor, in order, as bytes [num_bytes]: a view where they lie in order."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def bytes_of(tensor: Tensor) -> memoryview:
    """The elements of a tensor, in order, as they stand in a file."""
    return storage_of(tensor.cpu()).numpy().data
