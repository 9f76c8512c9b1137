"""PNG text: what is written is read, wherever it stands in the file, and hostile chunks are refused cheaply."""

from __future__ import annotations

import io
import resource
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.errors import BadImage
from backend.images.png_text import encode_png, read_png_text

PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
KIB = 1024


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(*before: bytes, after: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\1\2\3"))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + pixels + after + chunk(b"IEND", b"")


def test_a_picture_carries_its_texts_and_its_pixels():
    texts = {"parameters": "a café\nSteps: 1", "emulsion": '{"prompt": "猫 🐈"}', "empty": ""}
    data = encode_png(PIXELS, texts)
    assert read_png_text(data) == texts
    assert (np.asarray(Image.open(io.BytesIO(data))) == PIXELS).all()


def test_latin_text_is_plain_and_other_text_is_international():
    assert b"tEXtparameters\0caf\xe9" in encode_png(PIXELS, {"parameters": "café"})
    assert b"iTXtparameters\0" in encode_png(PIXELS, {"parameters": "猫"})


def test_pillow_reads_the_same_texts():
    texts = {"parameters": "café", "emulsion": "猫"}
    with Image.open(io.BytesIO(encode_png(PIXELS, texts))) as image:
        image.load()
        assert image.info == texts


def test_what_no_png_can_hold_is_replaced_visibly():
    assert read_png_text(encode_png(PIXELS, {"parameters": "a\0b\ud800c🐈"})) == {"parameters": "a\ufffdb\ufffdc🐈"}


@settings(deadline=None, derandomize=True, max_examples=100)
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200))
def test_every_text_survives(text):
    assert read_png_text(encode_png(PIXELS, {"parameters": text})) == {"parameters": text}


@pytest.mark.parametrize(
    "pixels", [PIXELS.astype(np.float32), PIXELS[..., :2], PIXELS[0]], ids=["float", "two", "flat"]
)
def test_only_rgb_bytes_are_pixels(pixels):
    with pytest.raises(ValueError, match="uint8"):
        encode_png(pixels, {})


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (chunk(b"tEXt", b"key\0caf\xe9"), "café"),
        (chunk(b"zTXt", b"key\0\0" + zlib.compress(b"caf\xe9")), "café"),
        (chunk(b"iTXt", b"key\0\0\0\0\0" + "猫".encode()), "猫"),
        (chunk(b"iTXt", b"key\0\0\0de\0Schl\xc3\xbcssel\0" + "猫".encode()), "猫"),
        (chunk(b"iTXt", b"key\0\1\0\0\0" + zlib.compress("猫".encode())), "猫"),
        (chunk(b"iTXt", b"key\0\0\0\0\0" + b"a\xffb"), "a\ufffdb"),
        (chunk(b"tEXt", b"key\0first") + chunk(b"tEXt", b"key\0last"), "last"),
        (chunk(b"tEXt", b"key\0" + b"x" * 256 * KIB), "x" * 256 * KIB),
    ],
    ids=["tEXt", "zTXt", "iTXt", "iTXt with language", "packed iTXt", "broken UTF-8", "twice", "as long as allowed"],
)
def test_reads_every_kind_of_text_before_and_after_the_pixels(written, expected):
    assert read_png_text(png(written)) == {"key": expected}
    assert read_png_text(png(after=written)) == {"key": expected}


BOMB = zlib.compress(b"x" * 64 * KIB * KIB, 9)
HOSTILE = {
    "no PNG": (b"GIF89a", "not a PNG"),
    "empty": (b"", "not a PNG"),
    "cut": (png()[:-20], "middle of a chunk"),
    "cut before the end": (png()[:-12], "middle of a chunk"),
    "length beyond the file": (png(b"\xff\xff\xff\xfftEXtkey\0x"), "middle of a chunk"),
    "60 MB tEXt": (png(chunk(b"tEXt", b"key\0" + b"x" * 60_000_000)), "larger than 256 KiB"),
    "one byte too long": (png(chunk(b"tEXt", b"key\0" + b"x" * (256 * KIB + 1))), "larger than 256 KiB"),
    "zTXt bomb": (png(chunk(b"zTXt", b"key\0\0" + BOMB)), "larger than 256 KiB"),
    "iTXt bomb": (png(chunk(b"iTXt", b"key\0\1\0\0\0" + BOMB)), "larger than 256 KiB"),
    "100 texts": (
        png(*(chunk(b"zTXt", b"k%d\0\0" % i + zlib.compress(b"x" * 255 * KIB)) for i in range(100))),
        "more than 1024 KiB",
    ),
    "same key 100 times": (png(chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 255 * KIB)) * 100), "more than 1024 KiB"),
    "bad checksum": (png(chunk(b"tEXt", b"key\0x", crc=1)), "damaged"),
    "no separator": (png(chunk(b"tEXt", b"key")), "no keyword"),
    "empty keyword": (png(chunk(b"tEXt", b"\0x")), "no keyword"),
    "long keyword": (png(chunk(b"tEXt", b"k" * 80 + b"\0x")), "no keyword"),
    "iTXt without fields": (png(chunk(b"iTXt", b"key\0\0\0")), "malformed"),
    "unknown compression": (png(chunk(b"zTXt", b"key\0\7abc")), "unknown way"),
    "not zlib": (png(chunk(b"zTXt", b"key\0\0abcdefgh")), "cannot be decompressed"),
    "cut zlib": (png(chunk(b"zTXt", b"key\0\0" + zlib.compress(b"x" * 999)[:-6])), "ends too early"),
    "endless chunks": (png(chunk(b"abCd", b"") * 70_000), "chunks"),
}


@pytest.mark.parametrize(("data", "problem"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_by_name_at_little_cost(data, problem):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.thread_time()
    with pytest.raises(BadImage, match=problem) as refusal:
        read_png_text(data, "cat.png")
    assert time.thread_time() - start < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 20 * KIB  # 20 MiB
    assert str(refusal.value).startswith("cat.png: ")


@settings(deadline=None, derandomize=True, max_examples=500)
@given(data=st.data())
def test_damaged_files_raise_nothing_but_bad_image(data):
    whole = bytearray(png(chunk(b"zTXt", b"key\0\0" + zlib.compress(b"text")), after=chunk(b"iTXt", b"k\0\1\0\0\0x")))
    for at in data.draw(st.lists(st.integers(8, len(whole) - 1), max_size=4)):
        whole[at] = data.draw(st.integers(0, 255))
    try:
        texts = read_png_text(bytes(whole))
    except BadImage:
        return
    assert all(isinstance(value, str) for value in texts.values())
