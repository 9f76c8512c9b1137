"""Pages of mapped files that count as this process's memory for as long as they are mapped."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

_MAPS = Path("/proc/self/maps")
_DONT_NEED = 4  # MADV_DONTNEED on Linux


def forget_pages(views: Sequence[Tensor]) -> None:
    """Take the pages of views of files out of this process's memory; whoever reads them maps them again.

    On Linux. Memory that is not a file's is left alone: it would be lost. (A page of a file that was written to would
    be as well, but weights never are.)
    """
    if sys.platform != "linux":
        return
    files = _mapped_files()
    with suppress(AttributeError):  # not every C library has it
        advise = ctypes.CDLL(None).madvise
        for view in views:
            first, last = view.data_ptr(), view.data_ptr() + view.nbytes
            if not any(low <= first and last <= high for low, high in files):
                continue
            page = mmap.PAGESIZE
            low, high = -(-first // page) * page, last // page * page
            if low < high:
                advise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), _DONT_NEED)


def _mapped_files() -> list[tuple[int, int]]:
    """Addresses of the mapped files of this process."""
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:
        return []
    fields = [line.split(maxsplit=5) for line in lines]
    return [_range(words[0]) for words in fields if len(words) == 6 and words[4] != "0" and words[5].startswith("/")]


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low, 16), int(high, 16)
