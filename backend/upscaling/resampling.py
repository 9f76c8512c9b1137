"""Ways of enlarging that need no file."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Resampler:
    name: str
    label: str
    filter: Image.Resampling


BUILTIN = (
    Resampler(name="none", label="None", filter=Image.Resampling.LANCZOS),  # A1111's, for what needs another size
    Resampler(name="lanczos", label="Lanczos", filter=Image.Resampling.LANCZOS),
    Resampler(name="bicubic", label="Bicubic", filter=Image.Resampling.BICUBIC),
    Resampler(name="bilinear", label="Bilinear", filter=Image.Resampling.BILINEAR),
    Resampler(name="nearest", label="Nearest", filter=Image.Resampling.NEAREST),
)


def resampled(image: Image.Image, width: int, height: int, filter: Image.Resampling) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), filter)
