"""Texts of pictures in every format that A1111 and its relatives write."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from backend.errors import BadImage
from backend.images.picture_text import read_picture_text
from backend.images.png_text import encode_png

TEXT = "a café, 猫 🐈\nSteps: 20, Seed: 1, Size: 8x8"
RED = Image.new("RGB", (8, 8), (200, 0, 0))


def file_with_comment(comment: bytes, kind: str) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    file = io.BytesIO()
    RED.save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + TEXT.encode("utf-16-be"),
        b"UNICODE\0" + TEXT.encode("utf-16-le"),
        b"UNICODE\0" + TEXT.encode("utf-16"),
        b"\0" * 8 + TEXT.encode(),
        b"UNICODE\0" + TEXT.encode("utf-16-be") + b"\0\0",
    ],
    ids=["big endian", "little endian", "with mark", "undefined", "ended by zero"],
)
def test_reads_the_user_comment_in_every_encoding(comment, kind):
    assert read_picture_text(file_with_comment(comment, kind)) == {"parameters": TEXT}


def test_reads_ascii_and_comments_that_name_no_encoding():
    assert read_picture_text(file_with_comment(b"ASCII\0\0\0a cat", "JPEG")) == {"parameters": "a cat"}
    assert read_picture_text(file_with_comment(b"a cat in the rain", "JPEG")) == {"parameters": "a cat in the rain"}


def test_reads_a_png_as_the_png_reader_does():
    data = encode_png(np.zeros((4, 4, 3), np.uint8), {"parameters": TEXT, "emulsion": "{}"})
    assert read_picture_text(data) == {"parameters": TEXT, "emulsion": "{}"}


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_a_picture_without_text_has_none(kind):
    file = io.BytesIO()
    RED.save(file, kind)
    assert read_picture_text(file.getvalue()) == {}


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"GIF89a" + b"\0" * 50, b"\xff\xd8\xff\xe1\xff\xffExif\0\0", b"\x89PNG\r\n\x1a\n"]
)
def test_whatever_is_no_picture_is_refused(data):
    with pytest.raises(BadImage, match=r"cat\.jpg"):
        read_picture_text(data, "cat.jpg")


def test_a_text_beyond_the_limit_is_refused():
    webp = file_with_comment(b"ASCII\0\0\0" + b"x" * 300_000, "WEBP")  # a JPEG's EXIF ends at 64 KiB
    with pytest.raises(BadImage, match="larger than 256 KiB"):
        read_picture_text(webp)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_raises_nothing_but_bad_image():
    whole = file_with_comment(b"UNICODE\0" + TEXT.encode("utf-16-be"), "JPEG")
    random = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for at in random.integers(0, 200, 3):
            data[at] = random.integers(256)
        try:
            texts = read_picture_text(bytes(data))
        except BadImage:
            continue
        assert set(texts) <= {"parameters"}
