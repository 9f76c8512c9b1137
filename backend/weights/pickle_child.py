"""The process that converts one legacy pickle file: `python -m backend.weights.pickle_child` and four arguments.

It is started by `pickle_conversion` and is the only place in the program where pickles of others are read. PyTorch's
restricted reader builds tensors and plain values only; should it have a hole, what falls in is a process with limits,
without secrets in its environment, and not the server. There is no second attempt with fewer restrictions.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor

from backend.errors import BadCheckpoint, EmulsionError, FileError, OutputError, PickleRefused
from backend.weights.pickle_conversion import VALUES
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
_MAX_DEPTH = 4  # of tensors inside of mappings, as textual inversions and hypernetworks have them
_MAX_VALUES = 1000
_LONGEST_VALUE = 500
_REFUSED_NAME = re.compile(r"GLOBAL ([\w.]{1,200})")


class LeftBehind:
    """Stands for classes of training programs that a file mentions and its weights do not need."""


class Parameters:
    """Stands for PyTorch's ParameterDict, in which the first textual inversions keep their vectors."""


# Beside tensors and plain values: numbers of NumPy (a step count, a loss), a class that marks the training state in
# the published SD 1.x files, and one that holds tensors.
_SCALAR = np.float64(0).__reduce__()[0]
_ALLOWED: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (np.dtype, "numpy.dtype"),
    *(type(np.dtype(name)) for name in _NUMBERS),
    (LeftBehind, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    (Parameters, "torch.nn.modules.container.ParameterDict"),
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

    Tensors inside of mappings and lists have the path to them as their name; what stands beside those is metadata.
    Raises PickleRefused, BadCheckpoint or OutputError.
    """
    content = read_pickle(source)
    tensors, left_out = content.tensors, content.left_out
    metadata = {"format": "pt", "emulsion.converted_from": source.name.encode("ascii", "replace").decode()}
    if content.values:
        metadata[VALUES] = json.dumps(content.values)
    if left_out:
        metadata["emulsion.left_out"] = ", ".join(left_out)
    try:
        write_safetensors(output, tensors, metadata, replace=replace)
    except FileExistsError as error:
        raise OutputError(f"{output.name} exists already. Choose another name.") from error
    return left_out


class PickleContent(NamedTuple):
    """values: plain ones beside tensors that lie inside of mappings. left_out: the names of everything else."""

    tensors: dict[str, Tensor]
    left_out: list[str]
    values: dict[str, Any]


def read_pickle(path: Path) -> PickleContent:
    """The named tensors of a file. Raises PickleRefused or BadCheckpoint."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        _refuse_expansion(path, file, size)
        content = _load(path, file)
    found = _named_tensors(path, content)
    total = sum(TensorSpec(tuple(tensor.shape), tensor.dtype).num_bytes for tensor in found.tensors.values())
    if (
        total > 2 * size + _MEGABYTE
    ):  # twice: weights that are shared inside the file are written for each of their names
        raise BadCheckpoint(
            path, f"it claims {total:,} bytes of weights in a file of {size:,}; it is hostile or damaged."
        )
    return found


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


def _named_tensors(path: Path, content: object) -> PickleContent:
    top = _as_mapping(content)
    inner = _as_mapping(top.get("state_dict"))
    weights = inner or top
    tensors: dict[str, Tensor] = {
        name: value
        for name, value in weights.items()
        if isinstance(name, str) and is_possible_name(name) and _is_plain(value)
    }
    values: dict[str, Any] = {}
    others = [name for name in weights if name not in tensors]
    if inner:
        others += [name for name in top if name != "state_dict"]
    elif not tensors:
        tensors = dict(_inside_of(top, "", _MAX_DEPTH))
        values = {
            name: value
            for name, value in list(top.items())[:_MAX_VALUES]
            if isinstance(name, str) and is_possible_name(name) and _is_value(value)
        }
        holding = {name.split(".", 1)[0] for name in tensors}
        others = [name for name in top if str(name) not in holding and name not in values]
    if not tensors:
        raise BadCheckpoint(path, "it holds no weights under names. Choose another file.")
    left_out = [str(name)[:100].encode("ascii", "replace").decode() for name in others[:1000]]
    return PickleContent(tensors=tensors, values=values, left_out=left_out)


def _inside_of(value: object, name: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Tensors below `value` by their paths, such as "320.0.linear.0.weight"."""
    if _is_plain(value):
        if is_possible_name(name):
            yield name, value.detach()
        return
    entries = list(enumerate(value)) if isinstance(value, (list, tuple)) else list(_as_mapping(value).items())
    if depth:
        for key, inner in entries:
            if isinstance(key, (str, int)):
                yield from _inside_of(inner, f"{name}.{key}" if name else str(key), depth - 1)


def _is_value(value: object) -> bool:
    """Whether metadata can hold a value: numbers and short texts, and lists of them."""
    if isinstance(value, (list, tuple)):
        return len(value) <= _MAX_VALUES and all(not isinstance(x, (list, tuple)) and _is_value(x) for x in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int)) or (isinstance(value, str) and len(value) <= _LONGEST_VALUE)


def _as_mapping(value: object) -> Mapping[Any, Any]:
    if isinstance(value, Parameters):
        return _as_mapping(vars(value).get("_parameters"))
    return value if isinstance(value, dict) else {}


def _is_plain(value: object) -> TypeGuard[Tensor]:
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
