"""Limit what this process may use of the machine, where the system can."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def limit_process(*, more_memory: int, seconds: int, file_bytes: int, open_files: int = 64) -> None:
    """Set limits that this process cannot raise again. Without effect on Windows, which has no such limits.

    more_memory: bytes of address space beyond what is mapped now; seconds: of processor time; file_bytes: length of
    the longest file that it may write. No core is dumped.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: open_files,
    }
    if (mapped := _mapped_bytes()) is not None:
        limits[resource.RLIMIT_AS] = mapped + more_memory
    for kind, limit in limits.items():
        _, most = resource.getrlimit(kind)
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        with suppress(ValueError, OSError):  # a kind that this system does not know
            resource.setrlimit(kind, (limit, limit))


def _mapped_bytes() -> int | None:
    """Address space of this process, or None where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
