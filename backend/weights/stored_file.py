"""The bytes of a weight file: read into memory, or seen through a memory map, and refused once the file changed."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Generator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from backend.errors import BadCheckpoint
from backend.weights.guarded_map import GuardedMap, guarded_map

_BLOCK = 2**20  # bytes read at a time: few enough to stay in the processor's cache until they are converted


class StoredFile:
    """A file of which nothing is in memory.

    Views are pages of the operating system's cache and cost no memory; they stay what they are whatever becomes of the
    file (backend/weights/guarded_map.py). Where that cannot be had, what is viewed is read into memory instead.
    """

    def __init__(self, path: Path, status: os.stat_result) -> None:
        self.path = path
        self._state = _state(status)
        self._lock = threading.Lock()
        self._map: GuardedMap | None = None
        self._is_mapped = False  # or it was tried
        self.id = hashlib.sha256(f"{path.resolve()}\0{self._state}".encode()).hexdigest()[:32]

    def view(self, begin: int, num_bytes: int) -> Tensor:
        """Bytes as uint8, of the memory map where there is one. Raises BadCheckpoint."""
        with self._unchanged():
            pages = self._pages() if num_bytes else None
            view = pages.view(begin, num_bytes) if pages is not None else None
        if view is None:
            view = torch.empty(num_bytes, dtype=torch.uint8)
            self.read_into(begin, view)
        return view

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

    def _pages(self) -> GuardedMap | None:
        """The file's pages, mapped when they are first wanted, or None where they cannot be viewed safely."""
        with self._lock:
            if not self._is_mapped:
                self._is_mapped = True
                try:
                    self._map = guarded_map(self.path, self._state)
                except ValueError as error:  # since a moment ago
                    raise self._changed() from error
                except OSError:  # so many pages are refused
                    self._map = None
            return self._map

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
        if _state(status) != self._state or (self._map is not None and self._map.is_lost):
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


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
