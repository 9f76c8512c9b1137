"""Turn a legacy .ckpt, .pt, .pth or .bin file into a safetensors file, when the user asks for it."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from backend.errors import (
    BadCheckpoint,
    DiskFull,
    EmulsionError,
    NotWritable,
    OutputError,
    PickleRefused,
    UnsupportedCheckpoint,
)
from backend.weights.atomic import sweep_parts
from backend.weights.safetensors_file import open_safetensors

VALUES = "emulsion.values"  # in metadata: plain values that a pickle has beside tensors inside of mappings, as JSON

_log = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]  # where the child finds `backend`
_MODULE = "backend.weights.pickle_child"
_MAX_REPORT = 2**20  # bytes
# What Python and PyTorch need to start. Everything else stays behind: proxies, tokens, passwords.
_KEPT_VARIABLES = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH",
    "PYTHONHOME", "SYSTEMROOT", "APPDATA",
)  # fmt: skip
_FILE_ERRORS = {error.__name__: error for error in (BadCheckpoint, PickleRefused, UnsupportedCheckpoint)}
_OUTPUT_ERRORS = {error.__name__: error for error in (DiskFull, NotWritable, OutputError)}


def convert_pickle(path: Path, output: Path | None = None, *, timeout: float = 600, replace: bool = False) -> Path:
    """Convert `path` to `output` (beside it, ending in .safetensors, when None) and return that.

    The file is judged by its content, not by its ending, and read in a process of its own with limits. What is no
    tensor is left out; its names are logged and stand in the metadata of the result.
    timeout: seconds until the attempt is given up. An existing file is kept unless `replace`.
    Raises PickleRefused when the file wants more than weights need, BadCheckpoint when it is damaged,
    UnsupportedCheckpoint when it is no pickle, and OutputError.
    """
    path = path.absolute()
    output = (output or path.with_suffix(".safetensors")).absolute()
    _refuse_what_is_no_pickle(path)
    if os.path.lexists(output) and (not replace or output.samefile(path)):
        raise OutputError(
            f"{output.name} exists already in {output.parent}. Choose another name for the converted file."
        )
    left_out = _run_child(path, output, timeout, replace=replace)
    open_safetensors(output)
    if left_out:
        _log.warning("%s was converted without what is no tensor: %s", path.name, ", ".join(left_out))
    return output


def converted_values(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a pickle held beside its tensors, from the metadata of what it was converted to; what is damaged is none."""
    try:
        found: Any = json.loads(metadata.get(VALUES, "{}"))
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _refuse_what_is_no_pickle(path: Path) -> None:
    try:
        open_safetensors(path)
    except PickleRefused:
        return
    raise UnsupportedCheckpoint(
        path, "it is a safetensors file already, whatever its name. There is nothing to convert."
    )


def _run_child(path: Path, output: Path, timeout: float, *, replace: bool) -> list[str]:
    arguments = [str(path), str(output), "replace" if replace else "keep", str(math.ceil(timeout))]
    with tempfile.TemporaryFile() as report, tempfile.TemporaryFile() as messages:
        try:
            done = subprocess.run(
                [sys.executable, "-m", _MODULE, *arguments],
                cwd=_ROOT, env=_environment(), stdin=subprocess.DEVNULL, stdout=report, stderr=messages,
                timeout=timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise BadCheckpoint(
                path, f"converting it took longer than {timeout:g} seconds and was given up."
            ) from error
        finally:
            sweep_parts(output.parent)  # of a child that was killed
        report.seek(0)
        messages.seek(0, os.SEEK_END)
        messages.seek(max(0, messages.tell() - 2000))
        return _read_report(path, done.returncode, report.read(_MAX_REPORT), messages.read())


def _read_report(path: Path, status: int, report: bytes, messages: bytes) -> list[str]:
    """The names that were left out. Raises what the child reports."""
    try:
        content: Any = json.loads(report)
    except ValueError:
        content = None
    match content:
        case {"left_out": list() as names} if status == 0:
            return [str(name) for name in names]
        case {"error": str() as kind, "message": str() as message} if status == 0:
            raise _error(path, kind, message)
        case _:
            _log.warning("The converter said: %s", messages.decode("utf-8", "replace"))
            how = f"signal {-status}" if status < 0 else f"status {status}"
            raise BadCheckpoint(path, f"reading it ended the converter ({how}); the file is damaged or hostile.")


def _error(path: Path, kind: str, message: str) -> EmulsionError:
    if kind in _OUTPUT_ERRORS:
        return _OUTPUT_ERRORS[kind](message)
    return _FILE_ERRORS.get(kind, BadCheckpoint)(path, message)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {**kept, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
