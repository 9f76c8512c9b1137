"""Read the header of a safetensors file, with limits of our own before anything is believed.

Format: eight bytes of little-endian length, that many bytes of JSON, then the tensors without gaps. The limits are far
above what any checkpoint has and far below what would hurt: a header can ask for 100 MB and millions of tensors.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from backend.errors import BadCheckpoint, PickleRefused
from backend.weights.source import TensorSpec

MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 200_000
MAX_METADATA_BYTES = 16 * 2**20
MAX_METADATA_VALUE_BYTES = 4 * 2**20
MAX_NAME_BYTES = 512
MAX_DIMENSIONS = 16
_LEAST_ENTRY_BYTES = 40  # {"a":{"dtype":"U8","shape":[],"data_offsets":[0,0]}} is longer

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: `begin` counts from the start of the file."""

    spec: TensorSpec
    begin: int


@dataclass(frozen=True)
class Header:
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def read_header(path: Path, file: BinaryIO, size: int) -> Header:
    """The checked header of an open file of `size` bytes.

    Raises PickleRefused for a pickle, and BadCheckpoint for everything else that is no complete safetensors file.
    """
    start = file.read(16)
    _refuse_other_formats(path, start, size)
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER_BYTES or length + 8 > size:
        if size >= 8 and 2 < length <= MAX_HEADER_BYTES:
            raise BadCheckpoint(path, f"it ends inside its header ({size:,} bytes). Download it again")
        raise BadCheckpoint(path, "it is no safetensors file: its first bytes are no header length")
    raw = start[8:] + file.read(length - len(start) + 8) if length > 8 else start[8 : 8 + length]
    if raw.count(b'"dtype"') > MAX_TENSORS or raw.count(b"{") > 2 * MAX_TENSORS:
        raise BadCheckpoint(path, f"its header lists more than {MAX_TENSORS:,} tensors, which no checkpoint has")
    try:
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(path, f"its header cannot be read ({error}). Download it again") from error
    if not isinstance(content, dict):
        raise BadCheckpoint(path, "its header is no list of tensors. Download it again")
    metadata = _checked_metadata(path, content.pop("__metadata__", {}))
    entries = _checked_entries(path, content, 8 + length, size)
    return Header(entries, metadata)


def _refuse_other_formats(path: Path, start: bytes, size: int) -> None:
    if size < 10:
        raise BadCheckpoint(path, f"it is empty or cut off ({size} bytes). Download it again")
    if start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
        what = "a PyTorch archive" if start[:2] == b"PK" and zipfile.is_zipfile(path) else "a pickle"
        raise PickleRefused(
            path,
            f"it is {what}, which can run code when it is opened. Convert it first: ./launch.sh convert {path.name}",
        )
    if start[:4] == b"GGUF":
        raise BadCheckpoint(path, "it is a GGUF file, which this version does not read; use a safetensors file")
    if start[:1] == b"<" or start[:7] in (b"version", b"Entry n"):
        what = "a Git LFS pointer" if start[:7] == b"version" else "a web page or an error message"
        raise BadCheckpoint(path, f"it is {what}, not the model. Download the model file itself")
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        raise BadCheckpoint(path, "it is a text file, not a model. Download the model file itself")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'the name "{double[:100]}" stands there twice')
    return content


def _checked_metadata(path: Path, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadCheckpoint(path, "the metadata in its header are no texts. Download it again")
    sizes = [len(key) + len(value) for key, value in metadata.items()]
    if sum(sizes) > MAX_METADATA_BYTES or max(sizes, default=0) > MAX_METADATA_VALUE_BYTES:
        raise BadCheckpoint(path, "the metadata in its header are larger than any checkpoint's")
    return metadata


def _checked_entries(path: Path, content: dict[str, Any], data_start: int, size: int) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    spans: list[tuple[int, int, str]] = []
    for name, value in content.items():
        spec, begin, end = _checked_entry(path, name, value)
        entries[name] = Entry(spec, data_start + begin)
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise BadCheckpoint(path, f'the data of "{name}" overlap or leave a gap. Download it again')
        position = end
    found = size - data_start
    if found < position:
        raise BadCheckpoint(path, f"it is cut off: {position - found:,} of {position:,} bytes are missing. Download it again")
    if found > position:
        raise BadCheckpoint(path, f"{found - position:,} bytes follow its last tensor. Download it again")
    return entries


def _checked_entry(path: Path, name: str, value: Any) -> tuple[TensorSpec, int, int]:
    if not name.isprintable() or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise BadCheckpoint(path, f"its header has an impossible name, {name[:40]!r}")
    match value:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if dtype in DTYPES:
            pass
        case {"dtype": str(dtype)} if dtype not in DTYPES:
            raise BadCheckpoint(path, f'"{name}" is stored as {dtype[:20]}, which this version does not read')
        case _:
            raise BadCheckpoint(path, f'the header entry of "{name}" cannot be read. Download it again')
    lengths: list[Any] = shape
    if len(lengths) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**48 for n in lengths):
        raise BadCheckpoint(path, f'"{name}" has an impossible shape. Download it again')
    spec = TensorSpec(tuple(lengths), DTYPES[dtype])
    if type(begin) is not int or type(end) is not int or begin < 0 or end - begin != spec.num_bytes:
        raise BadCheckpoint(path, f'"{name}" does not have the size of its shape. Download it again')
    return spec, begin, end
