"""Thumbnails in memory, so that a gallery that is opened again decodes nothing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from backend.images.safe_open import MAX_BYTES
from backend.images.thumbnail import make_thumbnail

MAX_CACHED_BYTES = 64 * 2**20


class Thumbnails:
    """The last 64 MiB of them. A file that has changed gets another one."""

    def __init__(self, max_bytes: int = MAX_CACHED_BYTES) -> None:
        self.num_bytes = 0
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[Path, int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path) -> bytes:
        """WebP. Raises BadImage, OSError."""
        status = path.stat()
        key = (path, status.st_mtime_ns, status.st_size)
        with self._lock:
            if (thumbnail := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return thumbnail
        with path.open("rb") as file:
            thumbnail = make_thumbnail(file.read(MAX_BYTES + 1), path.name)
        self._keep(key, thumbnail)
        return thumbnail

    def _keep(self, key: tuple[Path, int, int], thumbnail: bytes) -> None:
        with self._lock:
            self.num_bytes += len(thumbnail) - len(self._kept.pop(key, b""))
            self._kept[key] = thumbnail
            while self.num_bytes > self._max_bytes:
                self.num_bytes -= len(self._kept.popitem(last=False)[1])
