"""Writing a LoRA whose ranks are not known before its last module: tensor by tensor, complete or not at all."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from backend.errors import OutputError
from backend.weights.atomic import atomic_file
from backend.weights.safetensors_header import DTYPES
from backend.weights.source import bytes_of

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_METADATA_BYTES = 16_384  # that are kept free for what is only known in the end


class LoraWriter:
    """Takes tensors one by one."""

    def __init__(self, file: IO[bytes], dtype: torch.dtype) -> None:
        self.metadata: dict[str, str] = {}
        self._file, self._dtype = file, dtype
        self._entries: dict[str, Any] = {}
        self._position = 0

    def write(self, name: str, tensor: Tensor) -> None:
        """Raises OutputError for numbers that the file's data type cannot hold."""
        stored = tensor.to(self._dtype)
        if not stored.isfinite().all():
            raise OutputError(
                f"{name} holds numbers that {_NAMES[self._dtype]} cannot hold; nothing was written. "
                "Choose another data type, or look for what is wrong with the models."
            )
        data = bytes_of(stored)
        self._entries[name] = _entry(self._dtype, tuple(tensor.shape), self._position, self._position + len(data))
        self._position += len(data)
        self._file.write(data)

    def write_product(self, module: str, up: Tensor, down: Tensor, shape: tuple[int, ...]) -> None:
        """A layer's difference up [out, r] @ down [r, everything else], for a weight of that shape. Scale 1.

        Raises as `write` does.
        """
        rank = down.shape[0]
        alpha = torch.tensor(float(rank)).to(self._dtype).float()  # which cannot hold every rank exactly
        root = (rank / alpha).sqrt()
        self.write(f"{module}.alpha", alpha)
        self.write(f"{module}.lora_down.weight", (root * down).reshape(rank, *shape[1:]))
        self.write(f"{module}.lora_up.weight", (root * up).reshape(shape[0], rank, *(1,) * (len(shape) - 2)))

    def header(self) -> bytes:
        metadata = {"__metadata__": dict(sorted(self.metadata.items()))} if self.metadata else {}
        return _encoded({**metadata, **self._entries})


@contextmanager
def lora_writer(
    path: Path, largest: Mapping[str, tuple[int, ...]], dtype: torch.dtype, *, replace: bool
) -> Generator[LoraWriter]:
    """A file under `path` when the block ends well.

    largest: every tensor that may be written, and the largest shape that it may have: what the header takes is kept
    free before the data, and what it does not need is blank. Raises DiskFull, NotWritable, OutputError and
    FileExistsError, and then leaves no trace.
    """
    size = _header_size(largest, dtype)
    with atomic_file(path, replace=replace) as file:
        file.write(bytes(8 + size))
        writer = LoraWriter(file, dtype)
        yield writer
        header = writer.header()
        if len(header) > size:
            raise OutputError(f"{path.name} was not written: its metadata are longer than {_METADATA_BYTES} bytes.")
        file.seek(0)
        file.write(size.to_bytes(8, "little"))
        file.write(header.ljust(size))


def product_shapes(module: str, shape: tuple[int, ...], rank: int) -> dict[str, tuple[int, ...]]:
    """What `write_product` writes."""
    return {
        f"{module}.alpha": (),
        f"{module}.lora_down.weight": (rank, *shape[1:]),
        f"{module}.lora_up.weight": (shape[0], rank, *(1,) * (len(shape) - 2)),
    }


def _header_size(largest: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> int:
    end = sum(torch.Size(shape).numel() * dtype.itemsize for shape in largest.values())
    header = _encoded({name: _entry(dtype, shape, end, end) for name, shape in largest.items()})
    return -(-(len(header) + _METADATA_BYTES) // 8) * 8


def _entry(dtype: torch.dtype, shape: tuple[int, ...], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [begin, end]}


def _encoded(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, separators=(",", ":")).encode()
