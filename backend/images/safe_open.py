"""The one place where pictures from elsewhere are decoded."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from backend.errors import BadImage

FORMATS = ("PNG", "JPEG", "WEBP")  # Pillow would open some forty more, with as many decoders to attack
MAX_BYTES = 64 * 1024 * 1024
MAX_SIDE = 16_384
MAX_PIXELS = 50_000_000
# What Pillow's decoders raise on damaged files, besides its own UnidentifiedImageError (an OSError).
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    EOFError,
    TypeError,
    struct.error,
    zlib.error,
)


def open_image(data: bytes, name: str = "image") -> Image.Image:
    """The picture in the file `data`, decoded to RGB; of an animation, its first frame.

    name: what messages call the file. At most 64 MiB, 16384 pixels a side and 50 megapixels.
    Raises BadImage for anything but an undamaged PNG, JPEG or WebP within these limits.
    """
    if len(data) > MAX_BYTES:
        raise BadImage(name, f"it is {len(data) / 2**20:.0f} MiB; at most {MAX_BYTES // 2**20} are accepted.")
    try:
        with _open(data, name) as header:
            header.verify()  # the file is of no use to Pillow after this, so it is opened again
        with _open(data, name) as image:
            return image.convert("RGB")
    except DECODER_ERRORS as error:
        raise BadImage(name, f"it is damaged or not a {', '.join(FORMATS)} picture.") from error


def _open(data: bytes, name: str) -> Image.Image:
    """The file's header, its size checked before anything is decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's own, wider limit
        raise _too_large(name, "far more pixels than that") from error
    width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise _too_large(name, f"{width} x {height} pixels")
    return image


def _too_large(name: str, found: str) -> BadImage:
    limits = f"at most {MAX_SIDE} pixels a side and {MAX_PIXELS // 1_000_000} megapixels are accepted"
    return BadImage(name, f"{limits}; it has {found}. Make it smaller.")
