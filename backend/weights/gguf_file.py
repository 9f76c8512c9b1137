"""GGUF files as weight sources: numbers of a few bits, which stay packed until they are used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from backend.errors import UnsupportedCheckpoint
from backend.weights.ggml_formats import GgmlRows
from backend.weights.gguf_header import GgufEntry, GgufHeader, read_gguf_header
from backend.weights.packing import Packing, unpack_into
from backend.weights.source import TensorSpec, storage_of
from backend.weights.stored_file import StoredFile, opened

# What `general.architecture` may say: diffusion models, whose keys then tell the family, and encoders of T5.
ARCHITECTURES = ("flux", "sd1", "sd2", "sdxl", "sd3", "pixart", "t5", "t5encoder", "clip")
_UNSAID = ""  # files of stable-diffusion.cpp


def open_gguf(path: Path) -> GgufFile:
    """Open a file by its header alone.

    Raises BadCheckpoint for a damaged file, and UnsupportedCheckpoint, which names an architecture or a number format
    that is not read here.
    """
    with opened(path) as (file, status):
        header = read_gguf_header(path, file, status.st_size)
        architecture = header.facts.get("general.architecture", _UNSAID)
        if architecture not in (*ARCHITECTURES, _UNSAID):
            raise UnsupportedCheckpoint(
                path,
                f"it is a GGUF file of the architecture {str(architecture)[:60]!a}, which this version does not run. "
                f"It runs: {', '.join(ARCHITECTURES)}.",
            )
        return GgufFile(header, StoredFile(path, status))


class GgufFile:
    """A file of which nothing but its header is in memory. Packed numbers are read as float32."""

    def __init__(self, header: GgufHeader, file: StoredFile) -> None:
        self.origin = file.path
        self.metadata: Mapping[str, str] = {
            name: str(value) for name, value in header.facts.items() if not isinstance(value, tuple)
        }
        self._entries = header.entries
        self._file = file

    def keys(self) -> Sequence[str]:
        return tuple(self._entries)

    def spec(self, key: str) -> TensorSpec:
        return self._entries[key].spec

    def read(self, key: str) -> Tensor:
        entry = self._entries[key]
        if entry.format is None:
            return self._file.view(entry.begin, entry.num_bytes).view(entry.spec.dtype).view(entry.spec.shape)
        out = torch.empty(entry.spec.shape, dtype=entry.spec.dtype)
        self.read_into(key, out)
        return out

    def read_into(self, key: str, out: Tensor) -> None:
        entry = self._entries[key]
        if out.dtype == entry.spec.dtype and entry.format is None and out.is_contiguous() and out.device.type == "cpu":
            self._file.read_into(entry.begin, out.detach().flatten().view(torch.uint8))
            return
        stored = torch.empty(entry.num_bytes, dtype=torch.uint8)
        self._file.read_into(entry.begin, stored)
        if entry.format is None:
            out.copy_(stored.view(entry.spec.dtype).view(entry.spec.shape))
        elif packing := self.packing(key):
            unpack_into(packing, stored, out)
        else:
            out.copy_(GgmlRows(entry.format, entry.spec.shape)(stored, torch.float32)[0])

    def is_made(self, key: str) -> bool:
        return self._entries[key].format is not None

    def packing(self, key: str) -> Packing | None:
        entry = self._entries[key]
        if entry.format is None or not _has_whole_rows(entry):
            return None
        unpack = GgmlRows(entry.format, entry.spec.shape[1:])
        return Packing(name=entry.format.name, row_bytes=unpack.row_bytes, unpack=unpack)

    def storage_bytes(self, key: str) -> int:
        return self._entries[key].num_bytes if self._is_used_as_stored(key) else self.spec(key).num_bytes

    def read_storage(self, key: str) -> Tensor:
        entry = self._entries[key]
        return (
            self._file.view(entry.begin, entry.num_bytes)
            if self._is_used_as_stored(key)
            else storage_of(self.read(key))
        )

    def read_storage_into(self, key: str, out: Tensor) -> None:
        if self._is_used_as_stored(key):
            self._file.read_into(self._entries[key].begin, out)
        else:
            self.read_into(key, out.view(self.spec(key).dtype).view(self.spec(key).shape))

    def identity(self, key: str) -> str:
        return f"{self._file.id}:{key}"

    def _is_used_as_stored(self, key: str) -> bool:
        entry = self._entries[key]
        return entry.format is None or _has_whole_rows(entry)


def _has_whole_rows(entry: GgufEntry) -> bool:
    """Whether each row is whole blocks; the kernels that were stored flat have blocks that reach over two rows."""
    assert entry.format is not None
    shape = entry.spec.shape
    return len(shape) >= 2 and math.prod(shape[1:]) % entry.format.block_numbers == 0
