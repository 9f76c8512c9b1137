"""The only way in which files are written: complete, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from backend.errors import DiskFull, NotWritable, OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def atomic_file(path: Path, *, replace: bool = False) -> Iterator[IO[bytes]]:
    """A binary file that appears under `path` when the block ends well, and leaves no trace when it does not.

    It is written beside `path` under a name of its own, flushed to the disk and then put in place in one step.
    Raises FileExistsError when `path` exists and `replace` is false; DiskFull, NotWritable or OutputError.
    """
    part = path.with_name(f".{path.name[-150:]}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with told_as_output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = part.open("xb")
        with file:
            with told_as_output_errors(path):
                yield file
                file.flush()
                os.fsync(file.fileno())
        with told_as_output_errors(path):
            if replace:
                part.replace(path)
            else:
                _link(part, path)
            _sync_folder(path.parent)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write `data` to `path` in one step. Raises as `atomic_file` does."""
    with atomic_file(path, replace=replace) as file:
        file.write(data)


@contextmanager
def told_as_output_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into errors that say what to do."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"The disk of {path.parent} is full; {path.name} was not written. Free some space.") from error
        if error.errno in _REFUSED:
            raise NotWritable(
                f"The folder {path.parent} refuses new files ({error.strerror}); {path.name} was not written. "
                "Choose another output folder or change its permissions."
            ) from error
        raise OutputError(f"{path.name} could not be written to {path.parent}: {error.strerror or error}.") from error


def sweep_parts(folder: Path) -> int:
    """Remove what killed processes left behind in `folder`; returns how many files that were."""
    removed = 0
    for part in folder.glob(".*.part"):
        pid = part.name.split(".")[-3]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with suppress(OSError):
                part.unlink()
                removed += 1
    return removed


def _link(part: Path, path: Path) -> None:
    """Give the finished file its name, unless somebody else has taken it."""
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        if path.exists():  # a file system without hard links: the check and the rename are two steps
            raise FileExistsError(errno.EEXIST, "exists", str(path)) from None
        part.replace(path)


def _sync_folder(folder: Path) -> None:
    """Make the name itself survive a power loss, where the system allows a folder to be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
