"""safetensors files as weight sources, and back."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from backend.errors import BadCheckpoint, OutputError
from backend.weights.atomic import atomic_file
from backend.weights.safetensors_header import DTYPES, Header, is_possible_name, read_header
from backend.weights.source import TensorSpec, bytes_of

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_BLOCK = 2**20  # bytes read at a time: few enough to stay in the processor's cache until they are converted


def open_safetensors(path: Path) -> SafetensorsFile:
    """Open a file by its header alone.

    Raises BadCheckpoint, PickleRefused or UnsupportedCheckpoint, which say what the file is instead.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its other end
            raise BadCheckpoint(path, "it is no file. Choose another.")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            header = read_header(path, file, status.st_size)
            return SafetensorsFile(path, header, file, status)
    except FileNotFoundError as error:
        raise BadCheckpoint(path, f"it is not in {path.parent}. Put it back or choose another.") from error
    except OSError as error:
        raise _unreadable(path, error) from error


class SafetensorsFile:
    """A file of which nothing but its header is in memory.

    What `read` returns are pages of the operating system's cache. To touch one that is no longer in the file ends the
    process, so that every read refuses a file that changed; what can be neither seen nor prevented is a file that is
    shortened in place while views of it are in use. One that is replaced by another is safe: views keep the old one.
    """

    def __init__(self, path: Path, header: Header, file: BinaryIO, status: os.stat_result) -> None:
        self.origin = path
        self.metadata: Mapping[str, str] = header.metadata
        self._entries = header.entries
        self._state = _state(status)
        self._map = _mapped(path, file, status.st_size)
        self._id = hashlib.sha256(f"{path.resolve()}\0{self._state}".encode()).hexdigest()[:32]

    def keys(self) -> Sequence[str]:
        return tuple(self._entries)

    def spec(self, key: str) -> TensorSpec:
        return self._entries[key].spec

    def read(self, key: str) -> Tensor:
        spec, begin = self._entries[key].spec, self._entries[key].begin
        is_aligned = begin % spec.dtype.itemsize == 0  # PyTorch needs it; old writers did not care
        if self._map is None or not is_aligned or not spec.num_elements:
            out = torch.empty(spec.shape, dtype=spec.dtype)
            self.read_into(key, out)
            return out
        with self._unchanged():
            flat = torch.frombuffer(self._map, dtype=spec.dtype, count=spec.num_elements, offset=begin)
        return flat.view(spec.shape)

    def read_into(self, key: str, out: Tensor) -> None:
        spec = self._entries[key].spec
        shape = spec.shape or (1,)
        rows = out.view(shape)
        row_bytes = spec.num_bytes // max(1, shape[0])
        step = max(1, _BLOCK // max(1, row_bytes))
        block = torch.empty(min(step, shape[0]) * row_bytes, dtype=torch.uint8)
        with self._unchanged() as file:
            file.seek(self._entries[key].begin)
            for start in range(0, shape[0] if row_bytes else 0, step):
                part = block[: min(step, shape[0] - start) * row_bytes]
                self._fill(part, file)
                rows[start : start + step].copy_(part.view(spec.dtype).view(-1, *shape[1:]))

    def identity(self, key: str) -> str:
        return f"{self._id}:{key}"

    @contextmanager
    def _unchanged(self) -> Generator[FileIO]:
        """The file, opened again, which must be as it was when the block begins and when it ends."""
        try:
            with self.origin.open("rb", buffering=0) as file:
                self._refuse_changed(os.fstat(file.fileno()))
                yield file
                self._refuse_changed(os.fstat(file.fileno()))
        except FileNotFoundError as error:
            raise self._changed() from error
        except OSError as error:
            raise _unreadable(self.origin, error) from error

    def _refuse_changed(self, status: os.stat_result) -> None:
        if _state(status) != self._state:
            raise self._changed()

    def _changed(self) -> BadCheckpoint:
        return BadCheckpoint(
            self.origin, "it changed on the disk while it was in use. Refresh the model list and retry."
        )

    def _fill(self, block: Tensor, file: FileIO) -> None:
        """Read the next bytes of the file into all of `block`."""
        rest = block.numpy().data
        while rest:
            count = file.readinto(rest)
            if not count:
                raise self._changed()
            rest = rest[count:]


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


def _mapped(path: Path, file: BinaryIO, size: int) -> mmap.mmap | None:
    """The file's pages, or None where the system refuses to map so many; then tensors are read into memory instead.

    The mapping is private: PyTorch asks for writable memory, and a copy-on-write page is never written to the file.
    """
    try:
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    except OSError:
        return None
    except ValueError as error:  # shorter than a moment ago
        raise BadCheckpoint(path, "it changed on the disk while it was opened. Try again.") from error


def _unreadable(path: Path, error: OSError) -> BadCheckpoint:
    return BadCheckpoint(path, f"it cannot be read ({error.strerror or error}). Choose another.")


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
