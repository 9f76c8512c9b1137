"""The text that a PNG carries, such as A1111's `parameters`: read without trusting the file, written with the picture.

A text chunk may expand a thousandfold or never end, so this reader has limits of its own and decodes no pixel.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from backend.errors import BadImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_KEY_BYTES = 79
MAX_TEXT_BYTES = 256 * 1024
MAX_TOTAL_BYTES = 1024 * 1024
MAX_CHUNKS = 65_536
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")


def read_png_text(data: bytes, name: str = "image.png") -> dict[str, str]:
    """The texts of the PNG file `data` by keyword, from before and after the pixels; the last of a keyword counts.

    name: what messages call the file. At most 256 KiB a text and 1 MiB in all, measured after decompression.
    Raises BadImage for anything but an undamaged PNG within these limits.
    """
    texts: dict[str, str] = {}
    total = 0
    for kind, body in _text_chunks(data, name):
        key, raw, encoding = _read_chunk(kind, body, name)
        if len(raw) > MAX_TEXT_BYTES:
            raise BadImage(name, f'its text "{key}" is larger than {MAX_TEXT_BYTES // 1024} KiB, so it was not read.')
        total += len(raw)
        if total > MAX_TOTAL_BYTES:
            raise BadImage(name, f"it carries more than {MAX_TOTAL_BYTES // 1024} KiB of text, so it was not read.")
        texts[key] = raw.decode(encoding, "replace")
    return texts


def encode_png(pixels: np.ndarray[Any, Any], text: Mapping[str, str]) -> bytes:
    """The file of `pixels`, uint8 [H, W, 3] or [H, W, 4], with each of `text` in a chunk: tEXt where Latin-1 suffices,
    else iTXt.

    NUL and lone surrogates, which no PNG can hold, become U+FFFD.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ValueError(f"pixels must be uint8 [H, W, 3] or [H, W, 4], not {pixels.dtype} {list(pixels.shape)}")
    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, _storable(value))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def _text_chunks(data: bytes, name: str) -> Iterator[tuple[bytes, memoryview]]:
    """(type, body) of the text chunks, their checksums verified; everything else is stepped over."""
    if not data.startswith(SIGNATURE):
        raise BadImage(name, "it is not a PNG file.")
    view, at = memoryview(data), len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        length = int.from_bytes(view[at : at + 4], "big")
        kind, body_at = bytes(view[at + 4 : at + 8]), at + 8
        at = body_at + length + 4
        if len(kind) < 4 or at > len(data):
            raise BadImage(name, "it ends in the middle of a chunk. Copy or download it again.")
        if kind == b"IEND":
            return
        if kind in _TEXT_CHUNKS:
            body = view[body_at : body_at + length]
            if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(view[at - 4 : at], "big"):
                raise BadImage(name, f"a {kind.decode()} chunk is damaged (checksum). Copy or download it again.")
            yield kind, body
    raise BadImage(name, f"it has more than {MAX_CHUNKS:,} chunks.")


def _read_chunk(kind: bytes, body: memoryview, name: str) -> tuple[str, bytes, str]:
    """(keyword, text, encoding) of a text chunk; the text is cut one byte past the limit."""
    key_raw, separator, _ = bytes(body[: MAX_KEY_BYTES + 1]).partition(b"\0")
    if not separator or not key_raw:
        raise BadImage(name, f"a {kind.decode()} chunk has no keyword of 1 to {MAX_KEY_BYTES} bytes.")
    key, rest = key_raw.decode("latin-1"), body[len(key_raw) + 1 :]
    if kind == b"tEXt":
        return key, bytes(rest[: MAX_TEXT_BYTES + 1]), "latin-1"
    if kind == b"zTXt":
        return key, _inflate(rest[1:], method=bytes(rest[:1]), key=key, name=name), "latin-1"
    compressed, method, rest = bytes(rest[:1]), bytes(rest[1:2]), rest[2:]
    for _ in ("language tag", "translated keyword"):
        head = bytes(rest[: MAX_TEXT_BYTES + 1])
        if b"\0" not in head:
            raise BadImage(name, f'the iTXt chunk "{key}" is malformed.')
        rest = rest[head.index(b"\0") + 1 :]
    if compressed == b"\0":
        return key, bytes(rest[: MAX_TEXT_BYTES + 1]), "utf-8"
    return key, _inflate(rest, method=method, key=key, name=name), "utf-8"


def _inflate(packed: memoryview, *, method: bytes, key: str, name: str) -> bytes:
    """`packed` decompressed, cut one byte past the limit."""
    if method != b"\0":
        raise BadImage(name, f'its text "{key}" is compressed in an unknown way.')
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(packed, MAX_TEXT_BYTES + 1)
    except zlib.error as error:
        raise BadImage(name, f'its text "{key}" cannot be decompressed ({error}).') from error
    if not stream.eof and len(text) <= MAX_TEXT_BYTES:
        raise BadImage(name, f'its text "{key}" ends too early. Copy or download the file again.')
    return text


def _storable(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
