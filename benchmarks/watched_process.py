"""Run a part of a benchmark in a process of its own, and watch its memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_INTERVAL = 0.01


@dataclass(frozen=True, kw_only=True)
class Watched:
    """began: `time.monotonic()` before the process was made, a clock that all processes share.

    result: what the process printed last, as JSON. peak_anonymous: bytes of its own memory, file pages left out.
    peak_resident: with the file pages that it had mapped.
    """

    began: float
    result: dict[str, Any]
    peak_anonymous: int
    peak_resident: int


def run_watched(module: str, *arguments: str, timeout: float = 900) -> Watched:
    """`python -m module arguments` to its end. Raises RuntimeError with what it said when it fails."""
    began = time.monotonic()
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak, resident = 0, 0
    try:
        while process.poll() is None:
            peak = max(peak, _status_bytes(process.pid, "RssAnon:"))
            resident = max(resident, _status_bytes(process.pid, "VmHWM:"))
            time.sleep(_INTERVAL)
            if time.monotonic() - began > timeout:
                raise RuntimeError(f"{module} did not end within {timeout} s")
    finally:
        process.kill()
        output, errors = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{module} failed:\n{errors[-3000:]}")
    return Watched(began=began, result=json.loads(output.splitlines()[-1]), peak_anonymous=peak, peak_resident=resident)


def _status_bytes(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
