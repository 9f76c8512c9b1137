"""The only way in which files are written: complete, or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from backend.errors import DiskFull, NotWritable, OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_PART = re.compile(r"\..*\.([0-9]{1,10})\.[0-9a-f]{8}\.part", re.DOTALL)
_DAY = 24 * 3600  # seconds


@contextmanager
def atomic_file(path: Path, *, replace: bool = False) -> Generator[IO[bytes]]:
    """A binary file that appears under `path` when the block ends well, and leaves no trace when it does not.

    It is written beside `path` under a name of its own, flushed to the disk and then put in place in one step.
    Raises FileExistsError when `path` exists and `replace` is false; DiskFull, NotWritable or OutputError, also for
    an OSError from inside the block.
    """
    if not replace and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "exists", str(path))
    part = path.with_name(f".{path.name[:40]}.{os.getpid()}.{secrets.token_hex(4)}.part")
    with told_as_output_errors(path):
        _make_folder(path.parent)
        try:
            # Closing flushes what a full disk refused once more, so it happens inside the translation of errors.
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if replace:
                part.replace(path)
            else:
                give_name(part, path)
            _sync_folder(path.parent)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write `data` to `path` in one step. Raises as `atomic_file` does."""
    with atomic_file(path, replace=replace) as file:
        file.write(data)


@contextmanager
def told_as_output_errors(path: Path) -> Generator[None]:
    """Turn the operating system's refusals into errors that say what to do."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(
                f"The disk of {path.parent} is full; {path.name} was not written. Free some space."
            ) from error
        if error.errno in _REFUSED:
            raise NotWritable(
                f"The folder {path.parent} refuses new files ({error.strerror}); {path.name} was not written. "
                "Choose another output folder or change its permissions."
            ) from error
        raise OutputError(f"{path.name} could not be written to {path.parent}: {error.strerror or error}.") from error


def sweep_parts(folder: Path) -> int:
    """Remove what killed processes left behind in `folder`; returns how many files that were.

    A part is left behind when no process has the number in its name, or when nobody wrote to it for a day: numbers are
    given again, in a container soon.
    """
    removed = 0
    for part in folder.glob(".*.part"):
        match = _PART.fullmatch(part.name)
        with suppress(OSError):
            if match and (not _is_running(int(match[1])) or time.time() - part.stat().st_mtime > _DAY):
                part.unlink()
                removed += 1
    return removed


def _is_running(pid: int) -> bool:
    if os.name != "posix":
        return True  # Windows cannot be asked by sending signal 0, which would interrupt the process
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(
            f"{folder} is a file or lies below one, not a folder. Choose another output folder."
        ) from error


def give_name(file: Path, path: Path) -> None:
    """Give a finished file, which may then be removed, another name in its folder or its disk, unless that is taken.

    Raises FileExistsError and OSError.
    """
    try:
        os.link(file, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links here, which systems say with many numbers: the check and the rename are two steps
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists", str(path)) from None
        file.replace(path)


def _sync_folder(folder: Path) -> None:
    """Make the name itself survive a power loss, where the system allows a folder to be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
