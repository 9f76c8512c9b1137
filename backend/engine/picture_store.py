"""Pictures that jobs begin with, by the SHA-256 of their files, so that jobs can be made again from their hashes."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from PIL import Image

from backend.errors import BadImage, UnknownPicture
from backend.images.safe_open import MAX_BYTES, open_picture
from backend.weights.atomic import sweep_parts, told_as_output_errors, write_atomically

SECONDS_KEPT = 3600  # an open form may need a picture that no job names yet
_DESCRIBED = 4096  # pictures whose facts stay in the memory
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class StoredPicture:
    """width, height: pixels, of the picture as it is seen, turned as EXIF says. has_alpha: it may be transparent."""

    sha256: str
    width: int
    height: int
    has_alpha: bool


@dataclass(frozen=True, kw_only=True)
class StoreSize:
    pictures: int
    num_bytes: int


class PictureStore:
    """Files byte for byte as they came, each in a folder of its hash's first two digits. For several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._described: OrderedDict[str, StoredPicture] = OrderedDict()
        self._lock = threading.Lock()
        for shelf in _folders_in(folder):
            sweep_parts(shelf)

    def add(self, data: bytes, name: str = "picture") -> StoredPicture:
        """Keep the file `data`, once; adding it again changes nothing.

        name: what messages call it. At most 64 MiB. Raises BadImage for what is no undamaged PNG, JPEG or WebP,
        OutputError.
        """
        if len(data) > MAX_BYTES:  # before it is hashed
            raise BadImage(name, f"it is {len(data) / 2**20:.0f} MiB; at most {MAX_BYTES // 2**20} are accepted.")
        sha256 = hashlib.sha256(data).hexdigest()
        described = self._known(sha256) or _described(sha256, open_picture(data, name))
        self._write(sha256, data)
        self._remember(described)
        return described

    def path(self, sha256: str) -> Path:
        """Its file. Raises UnknownPicture."""
        if not _SHA256.fullmatch(sha256) or not (path := self._place(sha256)).is_file():
            raise UnknownPicture(sha256)
        return path

    def data(self, sha256: str) -> bytes:
        """Its file's bytes. Raises UnknownPicture, and BadImage when they are not what was stored."""
        path = self.path(sha256)
        try:
            data = path.read_bytes()
        except OSError as error:  # removed meanwhile, or unreadable
            raise UnknownPicture(sha256) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BadImage(path, "the stored picture was changed or damaged on the disk. Upload its file again.")
        return data

    def open(self, sha256: str) -> Image.Image:
        """Raises UnknownPicture, BadImage."""
        return open_picture(self.data(sha256), _short(sha256))

    def describe(self, sha256: str) -> StoredPicture:
        """Raises UnknownPicture, BadImage."""
        self.path(sha256)
        if (known := self._known(sha256)) is not None:
            return known
        described = _described(sha256, self.open(sha256))
        self._remember(described)
        return described

    def require(self, hashes: Iterable[str]) -> None:
        """Raises UnknownPicture for the first one that is not here. Those that are count as just added."""
        for sha256 in hashes:
            _refresh(self.path(sha256))

    def size(self) -> StoreSize:
        sizes = [_size(path) for path in self._files()]
        return StoreSize(pictures=len(sizes), num_bytes=sum(sizes))

    def remove_unused(self, used: Iterable[str], *, seconds_kept: float = SECONDS_KEPT) -> StoreSize:
        """Remove what is not among the hashes in `used` and was added longer ago than `seconds_kept`; what that was.

        Raises OutputError.
        """
        kept = frozenset(used)
        limit = time.time() - seconds_kept
        removed: list[int] = []
        for path in list(self._files()):
            size = _size(path)
            if path.name not in kept and _added(path) <= limit:
                with told_as_output_errors(path):
                    path.unlink(missing_ok=True)
                removed.append(size)
        return StoreSize(pictures=len(removed), num_bytes=sum(removed))

    def _place(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def _files(self) -> Iterator[Path]:
        for shelf in _folders_in(self._folder):
            yield from (path for path in shelf.iterdir() if _SHA256.fullmatch(path.name) and path.is_file())

    def _write(self, sha256: str, data: bytes) -> None:
        path = self._place(sha256)
        with told_as_output_errors(path):
            is_there = _size(path) == len(data) and path.read_bytes() == data
        if is_there:
            _refresh(path)
        else:
            write_atomically(path, data)

    def _known(self, sha256: str) -> StoredPicture | None:
        with self._lock:
            return self._described.get(sha256)

    def _remember(self, described: StoredPicture) -> None:
        with self._lock:
            self._described[described.sha256] = described
            if len(self._described) > _DESCRIBED:
                self._described.popitem(last=False)


def hashes_in(value: Any) -> Iterator[str]:
    """Everything in a JSON value that could be the name of a picture."""
    match value:
        case str():
            if _SHA256.fullmatch(value):
                yield value
        case dict():
            for one in cast("dict[str, Any]", value).values():
                yield from hashes_in(one)
        case list() | tuple():
            for one in cast("Sequence[Any]", value):
                yield from hashes_in(one)
        case _:
            pass


def _described(sha256: str, image: Image.Image) -> StoredPicture:
    return StoredPicture(sha256=sha256, width=image.width, height=image.height, has_alpha=image.mode == "RGBA")


def _folders_in(folder: Path) -> list[Path]:
    return [shelf for shelf in folder.iterdir() if shelf.is_dir()] if folder.is_dir() else []


def _size(path: Path) -> int:
    """In bytes; 0 for a file that is not there, which no picture has."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _refresh(path: Path) -> None:
    """What is wanted again is as good as new."""
    with suppress(OSError):
        os.utime(path)


def _added(path: Path) -> float:
    """When it was added last, in seconds; of one that has gone meanwhile, now."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _short(sha256: str) -> str:
    return f"picture {sha256[:10]}"
