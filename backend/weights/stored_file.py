"""The bytes of a weight file: read into memory, or seen through a memory map, and refused once the file changed."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from backend.errors import BadCheckpoint

_BLOCK = 2**20  # bytes read at a time: few enough to stay in the processor's cache until they are converted


class StoredFile:
    """A file of which nothing is in memory.

    What `view` returns are pages of the operating system's cache. To touch one that is no longer in the file ends the
    process, so that every read refuses a file that changed; what can be neither seen nor prevented is a file that is
    shortened in place while views of it are in use. One that is replaced by another is safe: views keep the old one.
    """

    def __init__(self, path: Path, file: BinaryIO, status: os.stat_result) -> None:
        self.path = path
        self._state = _state(status)
        self._map = _mapped(path, file, status.st_size)
        self.id = hashlib.sha256(f"{path.resolve()}\0{self._state}".encode()).hexdigest()[:32]

    def view(self, begin: int, num_bytes: int) -> Tensor:
        """Bytes as uint8, of the memory map where there is one. Raises BadCheckpoint."""
        if self._map is None or not num_bytes:
            out = torch.empty(num_bytes, dtype=torch.uint8)
            self.read_into(begin, out)
            return out
        with self._unchanged():
            return torch.frombuffer(self._map, dtype=torch.uint8, count=num_bytes, offset=begin)

    def read_into(self, begin: int, out: Tensor) -> None:
        """Fill `out`, contiguous uint8 on any device, with the bytes from `begin` on. Raises BadCheckpoint."""
        if out.device.type == "cpu":
            with self._unchanged() as file:
                file.seek(begin)
                self._fill(out, file)
            return
        for start, block in self.blocks(begin, out.numel(), _BLOCK):
            out[start : start + block.numel()].copy_(block)

    def blocks(self, begin: int, num_bytes: int, step: int) -> Generator[tuple[int, Tensor]]:
        """Bytes from `begin` on, at most `step` of them at a time, in memory that the next ones overwrite.

        Gives where each block starts, counted from `begin`. Raises BadCheckpoint, in the end also for a file that
        changed meanwhile.
        """
        block = torch.empty(min(step, num_bytes), dtype=torch.uint8)
        with self._unchanged() as file:
            file.seek(begin)
            for start in range(0, num_bytes, step):
                part = block[: num_bytes - start]
                self._fill(part, file)
                yield start, part

    @contextmanager
    def _unchanged(self) -> Generator[FileIO]:
        """The file, opened again, which must be as it was when the block begins and when it ends."""
        try:
            with self.path.open("rb", buffering=0) as file:
                self._refuse_changed(os.fstat(file.fileno()))
                yield file
                self._refuse_changed(os.fstat(file.fileno()))
        except FileNotFoundError as error:
            raise self._changed() from error
        except OSError as error:
            raise unreadable(self.path, error) from error

    def _refuse_changed(self, status: os.stat_result) -> None:
        if _state(status) != self._state:
            raise self._changed()

    def _changed(self) -> BadCheckpoint:
        return BadCheckpoint(self.path, "it changed on the disk while it was in use. Refresh the model list and retry.")

    def _fill(self, block: Tensor, file: FileIO) -> None:
        """Read the next bytes of the file into all of `block`, with as few calls as the system allows."""
        rest = block.numpy().data
        while rest:
            count = file.readinto(rest)
            if not count:
                raise self._changed()
            rest = rest[count:]


@contextmanager
def opened(path: Path) -> Generator[tuple[BinaryIO, os.stat_result]]:
    """A weight file, open to read its header. Raises BadCheckpoint when there is none or it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its other end
            raise BadCheckpoint(path, "it is no file. Choose another.")
        with path.open("rb") as file:
            yield file, os.fstat(file.fileno())
    except FileNotFoundError as error:
        raise BadCheckpoint(path, f"it is not in {path.parent}. Put it back or choose another.") from error
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> BadCheckpoint:
    return BadCheckpoint(path, f"it cannot be read ({error.strerror or error}). Choose another.")


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


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
