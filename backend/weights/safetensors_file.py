"""safetensors files as weight sources, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from backend.errors import OutputError
from backend.weights.atomic import atomic_file
from backend.weights.fp8 import FP8, Fp8, Fp8Rows
from backend.weights.packing import Packing
from backend.weights.safetensors_header import DTYPES, Header, is_possible_name, read_header
from backend.weights.source import TensorSpec, bytes_of
from backend.weights.stored_file import StoredFile, opened

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_BLOCK = 2**20  # bytes converted at a time: few enough to stay in the processor's cache between reading and converting


def open_safetensors(path: Path) -> SafetensorsFile:
    """Open a file by its header alone.

    Raises BadCheckpoint, PickleRefused or UnsupportedCheckpoint, which say what the file is instead.
    """
    with opened(path) as (file, status):
        header = read_header(path, file, status.st_size)
        return SafetensorsFile(header, StoredFile(path, status))


class SafetensorsFile:
    """A file of which nothing but its header is in memory; what `read` returns are views, as StoredFile has them.

    left_out: bytes of metadata that are too large to be kept, by their names.
    """

    def __init__(self, header: Header, file: StoredFile) -> None:
        self.origin = file.path
        self.metadata: Mapping[str, str] = header.metadata
        self.left_out: Mapping[str, int] = header.left_out
        self._entries = header.entries
        self._file = file
        self._fp8 = {dtype: Fp8(dtype) for dtype in FP8}

    def keys(self) -> Sequence[str]:
        return tuple(self._entries)

    def spec(self, key: str) -> TensorSpec:
        return self._entries[key].spec

    def read(self, key: str) -> Tensor:
        spec, begin = self._entries[key].spec, self._entries[key].begin
        is_aligned = begin % spec.dtype.itemsize == 0  # PyTorch needs it; old writers did not care
        if is_aligned:
            return self.read_storage(key).view(spec.dtype).view(spec.shape)
        out = torch.empty(spec.shape, dtype=spec.dtype)
        self.read_into(key, out)
        return out

    def read_into(self, key: str, out: Tensor) -> None:
        spec, begin = self._entries[key].spec, self._entries[key].begin
        if out.dtype == spec.dtype and out.is_contiguous() and out.device.type == "cpu":
            self._file.read_into(begin, out.detach().flatten().view(torch.uint8))
            return
        shape = spec.shape or (1,)
        rows = out.view(shape)
        row_bytes = spec.num_bytes // max(1, shape[0])
        step = max(1, _BLOCK // max(1, row_bytes)) * row_bytes
        for start, block in self._file.blocks(begin, spec.num_bytes, max(1, step)):
            numbers = self._numbers(block, spec.dtype, out.dtype).view(-1, *shape[1:])
            first = start // row_bytes
            rows[first : first + numbers.shape[0]].copy_(numbers)

    def _numbers(self, block: Tensor, stored: torch.dtype, wanted: torch.dtype) -> Tensor:
        is_widened = stored in self._fp8 and wanted.is_floating_point and wanted.itemsize > 1
        return self._fp8[stored](block, wanted) if is_widened else block.view(stored)

    def is_made(self, key: str) -> bool:
        return False

    def packing(self, key: str) -> Packing | None:
        spec = self.spec(key)
        if spec.dtype not in self._fp8 or len(spec.shape) < 2 or not spec.num_elements:
            return None
        unpack = Fp8Rows(self._fp8[spec.dtype], spec.shape[1:])
        return Packing(name=str(spec.dtype).removeprefix("torch."), row_bytes=unpack.row_bytes, unpack=unpack)

    def storage_bytes(self, key: str) -> int:
        return self.spec(key).num_bytes

    def read_storage(self, key: str) -> Tensor:
        entry = self._entries[key]
        return self._file.view(entry.begin, entry.spec.num_bytes)

    def read_storage_into(self, key: str, out: Tensor) -> None:
        self._file.read_into(self._entries[key].begin, out)

    def identity(self, key: str) -> str:
        return f"{self._file.id}:{key}"


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, replace: bool = True
) -> None:
    """Write a file atomically, tensor by tensor, the largest data types first so that all of them are aligned.

    Raises DiskFull, NotWritable or OutputError, and then leaves no trace; FileExistsError as `atomic_file` does.
    """
    _refuse_unwritable(path, tensors)
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name in names:
        spec = TensorSpec(tuple(tensors[name].shape), tensors[name].dtype)
        end = position + spec.num_bytes
        header[name] = {"dtype": _NAMES[spec.dtype], "shape": spec.shape, "data_offsets": [position, end]}
        position = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with atomic_file(path, replace=replace) as file:
        file.write(len(raw).to_bytes(8, "little"))
        file.write(raw)
        for name in names:
            file.write(bytes_of(tensors[name]))


def _refuse_unwritable(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not is_possible_name(name):
            raise OutputError(f"{path.name} was not written: a tensor cannot be named {name[:100]!a}.")
        if tensor.dtype not in _NAMES:
            raise OutputError(f"{path.name} was not written: safetensors files cannot hold {tensor.dtype} ({name}).")
