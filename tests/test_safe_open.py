"""Pictures from elsewhere: three formats, within limits, undamaged, or a typed refusal."""

from __future__ import annotations

import io
import resource
import struct
import zlib

import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.errors import BadImage
from backend.images import safe_open
from backend.images.safe_open import open_image


def file_of(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int, depth: int = 8, colour: int = 2, pixels: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


RED = Image.new("RGB", (6, 4), (200, 10, 20))


def test_the_decoders_are_those_without_known_holes():
    assert int(PIL.__version__.split(".")[0]) >= 13


@pytest.mark.parametrize("kind", safe_open.FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_opens_the_three_formats_as_rgb(kind, mode):
    image = open_image(file_of(RED.convert(mode), kind))
    assert (image.mode, image.size) == ("RGB", (6, 4))


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "LA", "I;16"])
def test_opens_every_kind_of_png_as_rgb(mode):
    assert open_image(file_of(Image.new(mode, (6, 4)), "PNG")).mode == "RGB"


def test_keeps_the_pixels():
    assert open_image(file_of(RED, "PNG")).getpixel((0, 0)) == (200, 10, 20)


def test_opens_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in range(0, 250, 25)]
    for kind in ("PNG", "WEBP"):
        data = file_of(
            frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
        )
        assert open_image(data).getpixel((0, 0)) == (0, 0, 0)


BIG_WEBP = (
    b"RIFF"
    + struct.pack("<I", 30)
    + b"WEBPVP8X"
    + struct.pack("<I", 10)
    + b"\x10\0\0\0"
    + b"\xfe\x3f\0" * 2
    + b"\0" * 4
)
HOSTILE = {
    "empty": (b"", "damaged or not"),
    "text": (b"hello " * 100, "damaged or not"),
    "30000 x 30000": (png_header(30_000, 30_000), "50 megapixels"),
    "13000 x 13000 in one bit": (
        png_header(13_000, 13_000, 1, 0, zlib.compress(b"\0" * (13_000 * 1626), 9)),
        "13000 x 13000",
    ),
    "long and thin": (png_header(20_000, 8), "20000 x 8"),
    "zero pixels": (png_header(0, 0), "damaged or not"),
    "16383 x 16383 WebP": (BIG_WEBP, "50 megapixels"),
    "truncated PNG": (file_of(RED, "PNG")[:-30], "damaged"),
    "truncated JPEG": (file_of(Image.effect_noise((200, 200), 90), "JPEG")[:4000], "damaged"),
    "truncated WebP": (file_of(Image.effect_noise((200, 200), 90), "WEBP")[:4000], "damaged"),
    "more than 64 MiB": (file_of(RED, "PNG") + b"\0" * (64 * 2**20), "MiB"),
    **{
        kind: (file_of(RED, kind), "not a PNG, JPEG, WEBP")
        for kind in ("GIF", "TIFF", "BMP", "EPS", "PPM", "ICO", "PDF")
    },
    "PSD": (b"8BPS\0\1" + b"\0" * 40, "not a PNG"),
    "FITS": (b"SIMPLE  =                    T".ljust(2880), "not a PNG"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG"),
}


@pytest.mark.parametrize(("data", "problem"), HOSTILE.values(), ids=HOSTILE.keys())
def test_everything_else_is_refused_by_name_at_little_cost(data, problem):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadImage, match=problem) as refusal:
        open_image(data, "cat.png")
    assert str(refusal.value).startswith("cat.png: ")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 20 * 1024  # 20 MiB


@settings(deadline=None, derandomize=True, max_examples=300)
@given(data=st.data())
@pytest.mark.parametrize("kind", safe_open.FORMATS)
def test_damaged_files_raise_nothing_but_bad_image(kind, data):
    whole = bytearray(file_of(RED, kind))
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=6)):
        whole[at] = data.draw(st.integers(0, 255))
    try:
        image = open_image(bytes(whole[: data.draw(st.integers(1, len(whole)))]))
    except BadImage:
        return
    assert image.mode == "RGB"
