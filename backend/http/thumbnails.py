"""Thumbnails in memory, so that a gallery that is opened again decodes nothing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

from backend.images.safe_open import MAX_BYTES
from backend.images.thumbnail import make_thumbnail

MAX_CACHED_BYTES = 64 * 2**20


class Thumbnails:
    """The last 64 MiB of them. A file that has changed gets another one."""

    def __init__(self, max_bytes: int = MAX_CACHED_BYTES) -> None:
        self.num_bytes = 0
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path) -> bytes:
        """WebP. Raises BadImage, OSError."""
        status = path.stat()
        return self.made_of((path, status.st_mtime_ns, status.st_size), lambda: _start(path), path.name)

    def made_of(self, key: Hashable, read: Callable[[], bytes], name: str) -> bytes:
        """WebP of the picture that `read` gives, which has another key when it changes. Raises BadImage, as `read`."""
        with self._lock:
            if (thumbnail := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return thumbnail
        thumbnail = make_thumbnail(read(), name)
        self._keep(key, thumbnail)
        return thumbnail

    def _keep(self, key: Hashable, thumbnail: bytes) -> None:
        with self._lock:
            self.num_bytes += len(thumbnail) - len(self._kept.pop(key, b""))
            self._kept[key] = thumbnail
            while self.num_bytes > self._max_bytes:
                self.num_bytes -= len(self._kept.popitem(last=False)[1])


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)
