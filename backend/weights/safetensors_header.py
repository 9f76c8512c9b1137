"""Read the header of a safetensors file, with limits of our own before anything is believed.

Format: eight bytes of little-endian length, that many bytes of JSON, then the tensors without gaps. The limits are far
above what any checkpoint has and far below what would hurt: a header can ask for 100 MB and millions of tensors.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

from backend.errors import BadCheckpoint, PickleRefused, UnsupportedCheckpoint
from backend.weights.source import TensorSpec

MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 200_000
MAX_METADATA_BYTES = 16 * 2**20
MAX_METADATA_VALUE_BYTES = 4 * 2**20
MAX_NAME_BYTES = 512
MAX_DIMENSIONS = 16

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

# How often each of these may stand in a header: what MAX_TENSORS tensors need, and as much again for metadata. Counting
# takes milliseconds, whereas reading the JSON of a header that is made to hurt takes seconds and a gigabyte.
_MOST = {
    b'"dtype"': MAX_TENSORS,
    b"{": 2 * MAX_TENSORS,
    b"[": 4 * MAX_TENSORS,
    b",": 10 * MAX_TENSORS,
    b'"': 12 * MAX_TENSORS,
}
_LEAST_FILE_BYTES = 10  # a length and {}
_START_BYTES = 64
_MAX_ELEMENTS = 2**48  # below what PyTorch can count, with room for strides


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a tensor lies: `begin` counts from the start of the file."""

    spec: TensorSpec
    begin: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """The checked content of a header. left_out: bytes of texts that are too large to be kept, by their names."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])


def read_header(path: Path, file: BinaryIO, size: int) -> Header:
    """The checked header of an open file of `size` bytes. Raises OSError as reading does, and

    PickleRefused for a pickle, UnsupportedCheckpoint for a data type or a format that is not read here, and
    BadCheckpoint for everything else that is no complete safetensors file.
    """
    start = file.read(_START_BYTES)
    if size < _LEAST_FILE_BYTES:
        raise BadCheckpoint(path, f"it is empty or cut off ({size} bytes). Download it again.")
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or length > MAX_HEADER_BYTES:
        raise _what_it_is(path, start, length)
    if length + 8 > size:
        raise BadCheckpoint(path, f"it ends inside its header ({size:,} bytes). Download it again.")
    raw = (start[8:] + file.read(max(0, length + 8 - len(start))))[:length]
    if any(raw.count(mark) > most for mark, most in _MOST.items()):
        raise BadCheckpoint(path, f"its header lists more than {MAX_TENSORS:,} tensors, which no checkpoint has.")
    try:
        content: dict[str, Any] = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(path, f"its header cannot be read ({error}). Download it again.") from error
    metadata, left_out = _checked_metadata(path, content.pop("__metadata__", {}))
    return Header(entries=_checked_entries(path, content, 8 + length, size), metadata=metadata, left_out=left_out)


def is_possible_name(name: str) -> bool:
    """Whether a tensor may have this name."""
    return name.isprintable() and len(name.encode()) <= MAX_NAME_BYTES and name != "__metadata__"


def _what_it_is(path: Path, start: bytes, length: int) -> BadCheckpoint | PickleRefused | UnsupportedCheckpoint:
    """The error for a file that does not begin as a safetensors file does, which names what it is instead."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\x01\x02\x03\x04\x05"):
        what = "a PyTorch archive" if start[:1] == b"P" else "a pickle"
        return PickleRefused(
            path,
            f"it is {what}, which can run code when it is opened. Convert it first: ./launch.sh convert {path.name}",
        )
    if start[:4] == b"GGUF":
        return UnsupportedCheckpoint(
            path, "it is a GGUF file, and a safetensors file is needed here. It can be used as a checkpoint as it is."
        )
    if text.startswith(b"version https://git-lfs"):
        return BadCheckpoint(path, "it is a Git LFS pointer, not the model. Download the model file itself.")
    if text.startswith((b"<", b"Entry not found", b'{"error')):
        return BadCheckpoint(
            path, "it is a web page or an error message, not the model. Download the model file itself."
        )
    if _is_text(start):
        return BadCheckpoint(path, "it is a text file, not a model. Download the model file itself.")
    if start[8:9] == b"{" and length < 2**32:
        return BadCheckpoint(path, f"its header of {length:,} bytes is larger than any checkpoint's.")
    return BadCheckpoint(path, "it is no safetensors file: it does not begin with a header. Download it again.")


def _is_text(start: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\t\n\r" for letter in text)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        double = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the name {double[:100]!a} stands there twice")
    return content


def _checked_metadata(path: Path, metadata: Any) -> tuple[dict[str, str], dict[str, int]]:
    """What is kept, and bytes of what is not: some trainers write megabytes of tags, which nobody needs for weights."""
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadCheckpoint(path, "the metadata in its header are no texts. Download it again.")
    texts: dict[str, str] = metadata
    try:
        sizes = {key: (len(key.encode()), len(value.encode())) for key, value in texts.items()}
    except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can hold and text cannot
        raise BadCheckpoint(path, "the metadata in its header are no texts. Download it again.") from error
    left_out = {key: value for key, (_, value) in sizes.items() if value > MAX_METADATA_VALUE_BYTES}
    kept = {key: value for key, value in texts.items() if key not in left_out}
    total = sum(length for key in kept for length in sizes[key])
    if total > MAX_METADATA_BYTES or any(name > MAX_METADATA_VALUE_BYTES for name, _ in sizes.values()):
        raise BadCheckpoint(path, "the metadata in its header are larger than any checkpoint's.")
    return kept, left_out


def _checked_entries(path: Path, content: dict[str, Any], data_start: int, size: int) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    spans: list[tuple[int, int, str]] = []
    for name, value in content.items():
        spec, begin, end = _checked_entry(path, name, value)
        entries[name] = Entry(spec=spec, begin=data_start + begin)
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise BadCheckpoint(path, f'the data of "{name}" overlap others or leave a gap. Download it again.')
        position = end
    found = size - data_start
    if found < position:
        raise BadCheckpoint(
            path, f"it is cut off: {position - found:,} of {position:,} bytes are missing. Download it again."
        )
    if found > position:
        raise BadCheckpoint(path, f"{found - position:,} bytes too many follow its last tensor. Download it again.")
    return entries


def _checked_entry(path: Path, name: str, value: Any) -> tuple[TensorSpec, int, int]:
    if not is_possible_name(name):
        raise BadCheckpoint(path, f"its header has an impossible name, {name[:40]!a}. Download it again.")
    match value:
        case {"dtype": str() as dtype, "shape": list() as shape, "data_offsets": [int() as begin, int() as end]}:
            lengths: list[Any] = shape
        case _:
            raise BadCheckpoint(path, f'the header entry of "{name}" cannot be read. Download it again.')
    if dtype not in DTYPES:
        raise UnsupportedCheckpoint(path, f'"{name}" is stored as {dtype[:20]!a}, which this version does not read.')
    if not _is_possible_shape(lengths):
        raise BadCheckpoint(path, f'"{name}" has an impossible shape. Download it again.')
    spec = TensorSpec(tuple(lengths), DTYPES[dtype])
    if isinstance(begin, bool) or isinstance(end, bool) or begin < 0 or end - begin != spec.num_bytes:
        raise BadCheckpoint(path, f'"{name}" does not have the size of its shape. Download it again.')
    return spec, begin, end


def _is_possible_shape(lengths: list[Any]) -> bool:
    """PyTorch counts strides as if no length were 0, so that the others must have a possible product, too."""
    if len(lengths) > MAX_DIMENSIONS or not all(type(length) is int and length >= 0 for length in lengths):
        return False
    return math.prod(max(1, length) for length in lengths) < _MAX_ELEMENTS
