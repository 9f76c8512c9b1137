"""The process that converts one legacy pickle file: `python -m backend.weights.pickle_child` and four arguments.

It is started by `pickle_conversion` and is the only place in the program where pickles of others are read. PyTorch's
restricted reader builds tensors and plain values only; should it have a hole, what falls in is a process with limits,
without secrets in its environment, and not the server. There is no second attempt with fewer restrictions.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from backend.errors import BadCheckpoint, EmulsionError, FileError, OutputError, PickleRefused
from backend.weights.process_limits import limit_process
from backend.weights.safetensors_file import write_safetensors
from backend.weights.safetensors_header import DTYPES, is_possible_name
from backend.weights.source import TensorSpec

_MEGABYTE = 2**20
_NUMBERS = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)
_DTYPES = frozenset(DTYPES.values())
_REFUSED_NAME = re.compile(r"GLOBAL ([\w.]{1,200})")


class LeftBehind:
    """Stands for classes of training programs that a file mentions and its weights do not need."""


# Beside tensors and plain values: numbers of NumPy (a step count, a loss), and a class that marks the training state in
# the published SD 1.x files.
_SCALAR = np.float64(0).__reduce__()[0]
_ALLOWED: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (np.dtype, "numpy.dtype"),
    *(type(np.dtype(name)) for name in _NUMBERS),
    (LeftBehind, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
]


def main(arguments: Sequence[str]) -> None:
    """Convert; the result goes to standard output as one JSON object that `pickle_conversion` reads.

    arguments: source, output, "replace" or "keep", seconds of processor time.
    """
    source, output, replace, seconds = (
        Path(arguments[0]),
        Path(arguments[1]),
        arguments[2] == "replace",
        int(arguments[3]),
    )
    torch.set_num_threads(1)  # threads would want address space of their own
    size = source.stat().st_size
    limit_process(more_memory=2 * size + 512 * _MEGABYTE, seconds=seconds, file_bytes=3 * size + 64 * _MEGABYTE)
    try:
        report = {"left_out": convert(source, output, replace=replace)}
    except FileError as error:
        report = {"error": type(error).__name__, "message": error.problem}
    except EmulsionError as error:
        report = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(json.dumps(report))


def convert(source: Path, output: Path, *, replace: bool) -> list[str]:
    """Write the tensors of `source` to `output`; returns the names of what is no tensor and was left out.

    Raises PickleRefused, BadCheckpoint or OutputError.
    """
    tensors, left_out = read_pickle(source)
    metadata = {"format": "pt", "emulsion.converted_from": source.name.encode("ascii", "replace").decode()}
    if left_out:
        metadata["emulsion.left_out"] = ", ".join(left_out)
    try:
        write_safetensors(output, tensors, metadata, replace=replace)
    except FileExistsError as error:
        raise OutputError(f"{output.name} exists already. Choose another name.") from error
    return left_out


def read_pickle(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The named tensors of a file and the names of everything else in it. Raises PickleRefused or BadCheckpoint."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        _refuse_expansion(path, file, size)
        content = _load(path, file)
    tensors, left_out = _named_tensors(path, content)
    total = sum(TensorSpec(tuple(tensor.shape), tensor.dtype).num_bytes for tensor in tensors.values())
    if (
        total > 2 * size + _MEGABYTE
    ):  # twice: weights that are shared inside the file are written for each of their names
        raise BadCheckpoint(
            path, f"it claims {total:,} bytes of weights in a file of {size:,}; it is hostile or damaged."
        )
    return tensors, left_out


def _refuse_expansion(path: Path, file: BinaryIO, size: int) -> None:
    """PyTorch stores without compression; an archive that grows when it is read is meant to fill the memory."""
    if file.read(4) == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(file) as archive:
                total = sum(member.file_size for member in archive.infolist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, RuntimeError) as error:
            raise BadCheckpoint(path, f"it is a damaged archive ({error}). Download it again.") from error
        if total > 1.2 * size + _MEGABYTE:
            raise BadCheckpoint(path, f"its {size:,} bytes would grow to {total:,}; it is hostile or no checkpoint.")
    file.seek(0)


def _load(path: Path, file: BinaryIO) -> object:
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = _REFUSED_NAME.search(str(error))
        what = f"it asks for {name[1]}" if name else "it has instructions"
        raise PickleRefused(
            path, f"{what} that weights do not need and harmful files have. Look for a safetensors version of it."
        ) from error
    except MemoryError as error:
        raise BadCheckpoint(
            path, "it needs far more memory than its size explains; it is hostile or damaged."
        ) from error
    except Exception as error:  # the reader meets damage with any exception there is
        found = f"{type(error).__name__}: {str(error)[:200]}".encode("ascii", "replace").decode()
        raise BadCheckpoint(path, f"it cannot be read as a PyTorch file ({found}). Download it again.") from error


def _named_tensors(path: Path, content: object) -> tuple[dict[str, Tensor], list[str]]:
    top = _as_mapping(content)
    inner = _as_mapping(top.get("state_dict"))
    weights = inner or top
    tensors: dict[str, Tensor] = {
        name: value
        for name, value in weights.items()
        if isinstance(name, str) and is_possible_name(name) and _is_plain(value)
    }
    if not tensors:
        raise BadCheckpoint(path, "it holds no weights under names. Choose another file.")
    others = [name for name in weights if name not in tensors]
    if inner:
        others += [name for name in top if name != "state_dict"]
    return tensors, [str(name)[:100].encode("ascii", "replace").decode() for name in others[:1000]]


def _as_mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, dict) else {}


def _is_plain(value: object) -> bool:
    """Whether a value is a tensor that a safetensors file can hold."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.device.type == "cpu"
        and value.dtype in _DTYPES
    )


if __name__ == "__main__":
    main(sys.argv[1:])
