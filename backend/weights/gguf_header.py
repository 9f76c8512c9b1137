"""Read the header of a GGUF file, with limits of our own before anything is believed.

Format, little-endian: "GGUF", a version, the numbers of tensors and of facts; the facts, each a name, a type and a
value; for each tensor its name, its lengths from the innermost to the outermost, its number format and where its data
begin, counted from the end of the header, which is rounded up to the alignment. The reader of the `gguf` package maps
whole files and believes their counts, so that it is used by the tests only.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from backend.errors import BadCheckpoint, UnsupportedCheckpoint
from backend.weights.ggml_formats import FORMATS, OTHER, PLAIN, GgmlFormat
from backend.weights.safetensors_header import MAX_HEADER_BYTES, MAX_METADATA_VALUE_BYTES, MAX_TENSORS, is_possible_name
from backend.weights.source import TensorSpec

MAGIC = b"GGUF"
MAX_FACTS = 10_000
MAX_LIST = 1_000_000  # elements of all lists together: the vocabularies of language models have 600,000
_VERSIONS = (2, 3)
_MAX_DIMENSIONS = 4  # of ggml
_MAX_ELEMENTS = 2**48
_MAX_ALIGNMENT = 2**20
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."

_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _LIST = 8, 9
Fact = str | int | float | bool | tuple[int | float | bool, ...]


@dataclass(frozen=True, kw_only=True)
class GgufEntry:
    """Where a tensor lies and as what. format: None when the numbers are those of the spec's dtype."""

    spec: TensorSpec
    format: GgmlFormat | None
    begin: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """The checked content of a header. facts: without vocabularies."""

    entries: Mapping[str, GgufEntry]
    facts: Mapping[str, Fact]


def read_gguf_header(path: Path, file: BinaryIO, size: int) -> GgufHeader:
    """The checked header of an open file of `size` bytes. Raises OSError as reading does, and

    UnsupportedCheckpoint for a version or a number format that is not read here, and BadCheckpoint for everything
    else that is no complete GGUF file.
    """
    reader = _Reader(path, file)
    if reader.raw(4) != MAGIC:
        raise BadCheckpoint(path, "it is no GGUF file. Download it again.")
    version = reader.number("<I")
    if version not in _VERSIONS:
        raise UnsupportedCheckpoint(path, f"it is a GGUF file of version {version}; versions 2 and 3 are read here.")
    num_tensors, num_facts = reader.number("<Q"), reader.number("<Q")
    if num_tensors > MAX_TENSORS or num_facts > MAX_FACTS:
        raise BadCheckpoint(path, f"its header lists {num_tensors:,} tensors and {num_facts:,} facts; it is damaged.")
    facts = _read_facts(path, reader, num_facts)
    alignment = facts.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= _MAX_ALIGNMENT or alignment % 8:
        raise BadCheckpoint(path, f"its alignment cannot be {alignment!r:.40}. Download it again.")
    found = [_read_entry(path, reader, facts) for _ in range(num_tensors)]
    data_start = -(-reader.position // alignment) * alignment
    return GgufHeader(entries=_checked_entries(path, found, data_start, size), facts=facts)


class _Reader:
    """Reads a header from its beginning, and never more than a header may have."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self.position = 0
        self.list_elements = 0

    def raw(self, count: int) -> bytes:
        self.position += count
        if self.position > MAX_HEADER_BYTES:
            raise BadCheckpoint(self._path, "its header is larger than any checkpoint's.")
        data = self._file.read(count)
        if len(data) < count:
            raise BadCheckpoint(self._path, f"it ends inside its header (byte {self.position:,}). Download it again.")
        return data

    def number(self, form: str) -> int:
        return struct.unpack(form, self.raw(struct.calcsize(form)))[0]

    def text(self) -> str:
        length = self.number("<Q")
        if length > MAX_METADATA_VALUE_BYTES:
            raise BadCheckpoint(self._path, "a text in its header is larger than any checkpoint's.")
        try:
            return self.raw(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadCheckpoint(self._path, f"its header cannot be read ({error}). Download it again.") from error


def _read_facts(path: Path, reader: _Reader, count: int) -> dict[str, Fact]:
    facts: dict[str, Fact] = {}
    for _ in range(count):
        name = reader.text()
        if not is_possible_name(name):
            raise BadCheckpoint(path, f"its header has an impossible name, {name[:40]!a}. Download it again.")
        value = _read_value(path, reader, reader.number("<I"), name)
        if name in facts:
            raise BadCheckpoint(path, f"its header says {name[:100]!a} twice. Download it again.")
        if value is not None:
            facts[name] = value
    return facts


def _read_value(path: Path, reader: _Reader, kind: int, name: str) -> Fact | None:
    """A value, or None for a list of texts, which no network needs."""
    if kind in _NUMBERS:
        return reader.number(_NUMBERS[kind])
    if kind == _STRING:
        return reader.text()
    if kind != _LIST:
        raise BadCheckpoint(path, f"its header gives {name[:100]!a} an unknown type, {kind}. Download it again.")
    of, length = reader.number("<I"), reader.number("<Q")
    reader.list_elements += length
    if reader.list_elements > MAX_LIST or (of != _STRING and of not in _NUMBERS):
        raise BadCheckpoint(path, f"its header has an impossible list, {name[:100]!a}. Download it again.")
    if of == _STRING:
        for _ in range(length):
            reader.text()
        return None
    form = f"<{length}{_NUMBERS[of][1]}"
    return struct.unpack(form, reader.raw(struct.calcsize(form)))


def _read_entry(path: Path, reader: _Reader, facts: Mapping[str, Fact]) -> tuple[str, GgufEntry]:
    name = reader.text()
    if not is_possible_name(name):
        raise BadCheckpoint(path, f"its header has an impossible name, {name[:40]!a}. Download it again.")
    num_dimensions = reader.number("<I")
    if num_dimensions > _MAX_DIMENSIONS:
        raise BadCheckpoint(path, f'"{name}" has an impossible shape. Download it again.')
    lengths = tuple(reader.number("<Q") for _ in range(num_dimensions))
    kind, begin = reader.number("<I"), reader.number("<Q")
    num_elements = math.prod(lengths)
    if not 0 < num_elements < _MAX_ELEMENTS:
        raise BadCheckpoint(path, f'"{name}" has an impossible shape. Download it again.')
    shape = _original_shape(path, name, lengths[::-1], facts)
    if kind in PLAIN:
        spec = TensorSpec(shape, PLAIN[kind])
        return name, GgufEntry(spec=spec, format=None, begin=begin, num_bytes=spec.num_bytes)
    if kind not in FORMATS:
        raise UnsupportedCheckpoint(
            path,
            f'"{name}" is stored as {OTHER.get(kind, f"type {kind}")}, which this version does not read. '
            "Choose a file of Q2_K to Q8_0.",
        )
    format = FORMATS[kind]
    if not lengths or lengths[0] % format.block_numbers:
        raise BadCheckpoint(path, f'"{name}" has rows that are no whole blocks. Download it again.')
    num_bytes = num_elements // format.block_numbers * format.block_bytes
    spec = TensorSpec(shape, torch.float32)
    return name, GgufEntry(spec=spec, format=format, begin=begin, num_bytes=num_bytes)


def _original_shape(path: Path, name: str, shape: tuple[int, ...], facts: Mapping[str, Fact]) -> tuple[int, ...]:
    """The shape of the checkpoint that the file was made of: kernels are stored flat when their rows fit no blocks."""
    original = facts.get(_ORIGINAL_SHAPE + name)
    if original is None:
        return shape
    lengths = original if isinstance(original, tuple) else ()
    whole = tuple(length for length in lengths if type(length) is int and length > 0)
    if not whole or len(whole) != len(lengths) or len(whole) > 8 or math.prod(whole) != math.prod(shape):
        raise BadCheckpoint(path, f'"{name}" has an impossible original shape. Download it again.')
    return whole


def _checked_entries(
    path: Path, found: list[tuple[str, GgufEntry]], data_start: int, size: int
) -> dict[str, GgufEntry]:
    entries: dict[str, GgufEntry] = {}
    end = 0
    for name, entry in sorted(found, key=lambda item: item[1].begin):
        if entry.begin < end:
            raise BadCheckpoint(path, f'the data of "{name}" overlap others. Download it again.')
        end = entry.begin + entry.num_bytes
    if data_start + end > size:
        raise BadCheckpoint(
            path, f"it is cut off: {data_start + end - size:,} of {end:,} bytes are missing. Download it again."
        )
    for name, entry in found:
        if name in entries:
            raise BadCheckpoint(path, f'its header lists "{name}" twice. Download it again.')
        entries[name] = GgufEntry(
            spec=entry.spec, format=entry.format, begin=data_start + entry.begin, num_bytes=entry.num_bytes
        )
    return entries
