"""The texts that a picture carries, whatever its format."""

from __future__ import annotations

import io

from PIL import ExifTags, Image

from backend.errors import BadImage
from backend.images.png_text import MAX_TEXT_BYTES, SIGNATURE, read_png_text
from backend.images.safe_open import DECODER_ERRORS, MAX_BYTES

EXIF_KEY = "parameters"  # what other programs call the text that a JPEG or WebP has in its EXIF user comment
_CODE_BYTES = 8


def read_picture_text(data: bytes, name: str = "image") -> dict[str, str]:
    """Texts by their keywords: those of a PNG, or the user comment of a JPEG or WebP as "parameters".

    name: what messages call the file. Decodes no pixel. Raises BadImage.
    """
    if len(data) > MAX_BYTES:
        raise BadImage(name, f"it is {len(data) / 2**20:.0f} MiB; at most {MAX_BYTES // 2**20} are accepted.")
    if data.startswith(SIGNATURE):
        return read_png_text(data, name)
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "WEBP")) as image:
            comment: object = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    except (*DECODER_ERRORS, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(name, "it is damaged or not a PNG, JPEG or WebP picture.") from error
    text = _user_comment(comment) if isinstance(comment, bytes) else comment
    if not isinstance(text, str) or not text:
        return {}
    if len(text.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
        raise BadImage(name, f"its text is larger than {MAX_TEXT_BYTES // 1024} KiB, so it was not read.")
    return {EXIF_KEY: text}


def _user_comment(comment: bytes) -> str:
    """EXIF 2.32, 4.6.5: eight bytes name the encoding. "UNICODE" is UTF-16 in either order, mostly big endian."""
    code, text = comment[:_CODE_BYTES], comment[_CODE_BYTES:]
    match code.rstrip(b"\0"):
        case b"UNICODE":
            return _utf16(text).rstrip("\0")
        case b"ASCII" | b"":
            return text.decode("utf-8", "replace").rstrip("\0")
        case _:
            return comment.decode("utf-8", "replace").rstrip("\0")


def _utf16(text: bytes) -> str:
    """Big endian, unless more of its high bytes are zero the other way round, as they are in most prompts."""
    if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return text.decode("utf-16", "replace")
    is_little = text[1::2].count(0) > text[0::2].count(0)
    return text.decode("utf-16-le" if is_little else "utf-16-be", "replace")
