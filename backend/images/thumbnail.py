"""Small pictures for galleries."""

from __future__ import annotations

import io

from backend.images.safe_open import open_image

MAX_SIDE = 512


def make_thumbnail(data: bytes, name: str = "image") -> bytes:
    """The picture in the file `data` as WebP, at most 512 pixels a side. Raises BadImage."""
    image = open_image(data, name)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return file.getvalue()
