"""The one place where pictures from elsewhere are decoded."""

from __future__ import annotations

import io
import logging
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image

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
# EXIF 2.32, 4.6.4 A: how a camera was held, and what turns its picture upright. 1 is upright already.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_log = logging.getLogger(__name__)


def open_picture(data: bytes, name: str = "image") -> Image.Image:
    """The picture in the file `data`, upright, with 8 bits a channel: RGBA if it has an alpha channel, else RGB.

    Of an animation it is the first frame. 16-bit grey is scaled. Colours are taken for sRGB, whatever the file's
    profile says.
    name: what messages call the file. At most 64 MiB, 16384 pixels a side and 50 megapixels.
    Raises BadImage for anything but an undamaged PNG, JPEG or WebP within these limits.
    """
    if len(data) > MAX_BYTES:
        raise BadImage(name, f"it is {len(data) / 2**20:.0f} MiB; at most {MAX_BYTES // 2**20} are accepted.")
    try:
        with _open(data, name) as header:
            header.verify()  # the file is of no use to Pillow after this, so it is opened again
        with _open(data, name) as image:
            return _upright(image)
    except DECODER_ERRORS as error:
        raise BadImage(name, f"it is damaged or not a {', '.join(FORMATS)} picture.") from error


def open_image(data: bytes, name: str = "image") -> Image.Image:
    """As `open_picture`, but always RGB: the alpha channel is dropped, so that what it hides shows."""
    return open_picture(data, name).convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    turned = _UPRIGHT.get(_orientation(image))
    picture = _in_eight_bits(image)
    return picture if turned is None else picture.transpose(turned)


def _orientation(image: Image.Image) -> int:
    """The EXIF field, 1 to 8; 1 if there is none. Much is damaged that cameras and editors write there."""
    try:
        found: object = image.getexif().get(ExifTags.Base.Orientation)
    except DECODER_ERRORS as error:
        _log.info("The EXIF of a picture cannot be read, so it is taken to be upright: %s", error)
        return 1
    return found if isinstance(found, int) else 1


def _in_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_sixteen_bits(image)
    has_alpha = image.has_transparency_data  # an alpha channel, or one transparent colour
    return image.convert("RGBA" if has_alpha else "RGB")


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    """Pillow's own conversion clips at 255 in place of scaling."""
    levels = np.asarray(image)
    to_eight = np.rint(np.arange(65_536) / 257).astype(np.uint8)
    grey = Image.fromarray(to_eight[levels])
    picture = Image.merge("RGB", (grey, grey, grey))
    transparent: object = image.info.get("transparency")
    if isinstance(transparent, int):
        picture.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return picture


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
