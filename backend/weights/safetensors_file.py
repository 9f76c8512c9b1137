"""safetensors files as weight sources, and back."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from backend.errors import BadCheckpoint
from backend.weights.atomic import atomic_file
from backend.weights.safetensors_header import DTYPES, Header, read_header
from backend.weights.source import TensorSpec

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def open_safetensors(path: Path) -> SafetensorsFile:
    """Open a file by its header alone. Raises BadCheckpoint or PickleRefused, which say what the file is instead."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise BadCheckpoint(path, f"it is not there ({path.parent}). Choose another, or put it back") from error
    except OSError as error:
        raise BadCheckpoint(path, f"it cannot be opened ({error.strerror})") from error
    with file:
        status = os.fstat(file.fileno())
        if not os.path.isfile(path):
            raise BadCheckpoint(path, "it is no file")
        header = read_header(path, file, status.st_size)
        return SafetensorsFile(path, header, file, status)


class SafetensorsFile:
    """A memory-mapped file. Its pages belong to the operating system's cache, not to us."""

    def __init__(self, path: Path, header: Header, file: BinaryIO, status: os.stat_result) -> None:
        self.origin = path
        self.metadata: Mapping[str, str] = header.metadata
        self._entries = header.entries
        self._state = _state(status)
        # A private mapping: PyTorch asks for writable memory, and a copy-on-write page is never written to the file.
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._id = hashlib.sha256(f"{path.resolve()}\0{self._state}".encode()).hexdigest()[:32]

    def keys(self) -> Sequence[str]:
        return tuple(self._entries)

    def spec(self, key: str) -> TensorSpec:
        return self._entries[key].spec

    def read(self, key: str) -> Tensor:
        self._refuse_changed()
        entry = self._entries[key]
        if not entry.spec.num_elements:
            return torch.empty(entry.spec.shape, dtype=entry.spec.dtype)
        size = entry.spec.dtype.itemsize
        if entry.begin % size:  # PyTorch reads only aligned memory; old writers did not align the data
            raw = bytearray(self._map[entry.begin : entry.begin + entry.spec.num_bytes])
            return torch.frombuffer(raw, dtype=entry.spec.dtype).view(entry.spec.shape)
        flat = torch.frombuffer(
            self._map, dtype=entry.spec.dtype, count=entry.spec.num_elements, offset=entry.begin
        )
        return flat.view(entry.spec.shape)

    def identity(self, key: str) -> str:
        return f"{self._id}:{key}"

    def will_need(self) -> None:
        """Ask the operating system to read the file ahead."""
        self._map.madvise(mmap.MADV_WILLNEED)

    def _refuse_changed(self) -> None:
        """Reading a page that is no longer there would end the process; a changed file is told before."""
        try:
            unchanged = _state(self.origin.stat()) == self._state
        except OSError:
            unchanged = False
        if not unchanged:
            raise BadCheckpoint(self.origin, "it changed on the disk while it was in use. Refresh the model list and retry")


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file atomically, tensor by tensor, the largest data types first so that all of them are aligned.

    Raises DiskFull or NotWritable, and then leaves no trace.
    """
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
    with atomic_file(path, replace=True) as file:
        file.write(len(raw).to_bytes(8, "little"))
        file.write(raw)
        for name in names:
            flat = tensors[name].detach().cpu().contiguous().flatten()
            if flat.numel():
                file.write(flat.view(torch.uint8).numpy().data)


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
