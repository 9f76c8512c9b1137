"""Other metadata for a safetensors file: its header is written anew, and its tensors are copied byte for byte."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from backend.errors import BadCheckpoint, DiskFull, NotWritable, OutputError, RequestError
from backend.weights.atomic import atomic_file
from backend.weights.safetensors_header import (
    MAX_HEADER_BYTES,
    MAX_METADATA_BYTES,
    MAX_METADATA_VALUE_BYTES,
    read_header,
)
from backend.weights.stored_file import opened

MAX_ENTRIES = 1_000
MAX_KEY = 200  # characters
_METADATA = "__metadata__"
_BLOCK = 4 * 2**20
_ALIGNMENT = 8


def edit_metadata(path: Path, changes: Mapping[str, str | None]) -> dict[str, str]:
    """Write texts into a file's metadata, and leave out those that become None. Returns all that it has then.

    A text that is too large to be read would be lost; it has to be among the changes.

    Everything else stays: the tensors' bytes, and with them the hash behind the header. The new file takes the old
    one's place in one step, so it needs room beside it.
    Raises RequestError for an entry that no file should have, FileError for what is no safetensors file,
    NotWritable for a file that is write-protected, DiskFull, and OutputError, also for a file that changes meanwhile.
    """
    for key, value in changes.items():
        _check_entry(key, value)
    path = path.resolve()  # of a link, the file is changed
    with opened(path) as (file, status):
        found = read_header(path, file, status.st_size)
        for key in found.left_out.keys() - changes.keys():
            raise RequestError(f"metadata.{key[:100]}", f"has {found.left_out[key]:,} bytes, which is too much to be "
                               "read and written again. Remove it with the same change.")  # fmt: skip
        metadata = {key: value for key, value in {**found.metadata, **changes}.items() if value is not None}
        header = _header(file, metadata)
        _check_writable(path, status, len(header))
        with atomic_file(path, replace=True) as new:
            new.write(header)
            _copy_tensors(file, new)
            _check_unchanged(path, status)
            if os.name == "posix":
                os.chmod(new.fileno(), stat.S_IMODE(status.st_mode))
    return metadata


def _check_entry(key: str, value: str | None) -> None:
    field = f"metadata.{key[:100]}" if key.isprintable() else "metadata"
    if not key.strip() or not key.isprintable() or len(key) > MAX_KEY or key == _METADATA:
        raise RequestError(field, f"is no name for metadata: 1 to {MAX_KEY} printable characters are")
    try:
        size = len((value or "").encode())
    except UnicodeEncodeError as error:
        raise RequestError(field, "holds a character that is none (half of a surrogate pair)") from error
    if size > MAX_METADATA_VALUE_BYTES:
        raise RequestError(field, f"has {size:,} bytes; at most {MAX_METADATA_VALUE_BYTES:,} can be read again")


def _header(file: IO[bytes], metadata: Mapping[str, str]) -> bytes:
    """The file's header with these metadata, its length in front; tensors keep their order and places."""
    size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
    if len(metadata) > MAX_ENTRIES or size > MAX_METADATA_BYTES:
        raise RequestError(
            "metadata",
            f"would have {len(metadata):,} entries and {size:,} bytes; {MAX_ENTRIES:,} and {MAX_METADATA_BYTES:,} "
            "are possible",
        )
    file.seek(0)
    content: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    content.pop(_METADATA, None)
    head = {_METADATA: dict(metadata)} if metadata else {}
    raw = json.dumps({**head, **content}, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    if len(raw) > MAX_HEADER_BYTES:
        raise RequestError("metadata", f"would make a header of {len(raw):,} bytes; {MAX_HEADER_BYTES:,} can be read")
    return len(raw).to_bytes(8, "little") + raw


def _check_writable(path: Path, status: os.stat_result, header: int) -> None:
    """A file can be replaced where its folder allows it, but one that was protected was so for a reason."""
    if not status.st_mode & stat.S_IWUSR or not os.access(path, os.W_OK):
        raise NotWritable(f"{path.name} is write-protected; its metadata were not changed. Allow writing to it first.")
    free = shutil.disk_usage(path.parent).free
    if free < status.st_size + header:
        raise DiskFull(
            f"The disk of {path.parent} has {free:,} bytes left, and the new {path.name} needs "
            f"{status.st_size + header:,} beside the old one. Free some space."
        )


def _copy_tensors(file: IO[bytes], new: IO[bytes]) -> None:
    file.seek(0)
    file.seek(8 + int.from_bytes(file.read(8), "little"))
    shutil.copyfileobj(file, new, _BLOCK)


def _check_unchanged(path: Path, before: os.stat_result) -> None:
    try:
        now = path.stat()
    except OSError as error:
        raise BadCheckpoint(path, "it was removed while it was copied. Look at the folder again.") from error
    if (now.st_ino, now.st_size, now.st_mtime_ns) != (before.st_ino, before.st_size, before.st_mtime_ns):
        raise OutputError(f"{path.name} was changed by another program while it was copied; it stays as that left it.")
