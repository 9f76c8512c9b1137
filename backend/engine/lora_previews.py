"""The picture of a LoRA: a file beside it that is called like it, or the one in its header."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path

from backend.adapters.lora_facts import THUMBNAIL
from backend.errors import BadImage
from backend.images.safe_open import MAX_BYTES, open_image
from backend.weights.atomic import write_atomically
from backend.weights.safetensors_file import open_safetensors

# As A1111 looks for them, so that both programs show the same one.
_ENDINGS = tuple(f"{kind}{ending}" for ending in (".png", ".jpg", ".jpeg", ".webp") for kind in ("", ".preview"))


@dataclass(frozen=True, kw_only=True)
class LoraPreview:
    """version: another one means another picture. file: a picture, or the LoRA's file that has it in its header."""

    file: Path
    version: str
    is_in_header: bool

    def read(self) -> bytes:
        """The picture as a file. Raises OSError, FileError."""
        if self.is_in_header:
            return _picture_in(open_safetensors(self.file).metadata.get(THUMBNAIL, ""), self.file)
        with self.file.open("rb") as file:
            return file.read(MAX_BYTES + 1)


def find_preview(lora: Path, *, has_thumbnail: bool) -> LoraPreview | None:
    """has_thumbnail: whether the LoRA's header has a picture."""
    for ending in _ENDINGS:
        file = lora.with_name(f"{lora.stem}{ending}")
        if (version := _version(file)) and file.is_file():
            return LoraPreview(file=file, version=version, is_in_header=False)
    version = _version(lora) if has_thumbnail else ""
    return LoraPreview(file=lora, version=version, is_in_header=True) if version else None


def set_preview(lora: Path, picture: Path) -> None:
    """Copy a PNG as the LoRA's preview, its texts included, over the one that A1111 would show before it.

    Raises BadImage for a file that is no picture, OSError where it cannot be read, and OutputError.
    """
    with picture.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    open_image(data, picture.name)
    first = lora.with_name(f"{lora.stem}.png")
    write_atomically(first if first.exists() else lora.with_name(f"{lora.stem}.preview.png"), data)


def _picture_in(url: str, lora: Path) -> bytes:
    """The content of a data URL; only what is encoded in it is ever read."""
    kind, _, data = url.partition(",")
    if not kind.startswith("data:image/") or not kind.endswith(";base64") or len(data) > 2 * MAX_BYTES:
        raise BadImage(lora, "the picture in its header is in a form that is not read.")
    try:
        return base64.b64decode(data, validate=True)
    except (ValueError, binascii.Error) as error:
        raise BadImage(lora, "the picture in its header is damaged.") from error


def _version(file: Path) -> str:
    try:
        status = file.stat()
    except OSError:
        return ""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"
