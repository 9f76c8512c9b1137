"""What this program takes of the machine's memory."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.platform != "win32":
    import resource

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)


def resident_bytes() -> int:
    """Memory that this program has right now, mapped files that were read included.

    On macOS the most that it had; 0 where the system does not tell.
    """
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _status("VmRSS:") or 0


def peak_bytes() -> int:
    """The most that it had since `reset_peak`, where the system tells; or else what it has."""
    return _status("VmHWM:") or resident_bytes()


def reset_peak() -> None:
    """Begin to count the peak anew. Some systems do not allow that; the peak is then that of the program."""
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return


def _status(name: str) -> int | None:
    try:
        lines = [line.split() for line in _STATUS.read_text().splitlines()]
    except OSError:
        return None
    return next((int(words[1]) * 1024 for words in lines if words[:1] == [name]), None)
