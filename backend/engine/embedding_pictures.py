"""Textual inversions in pictures, as A1111 shares them: in the text of a PNG, or hidden in the edges of any picture.

The hidden form survives sites that strip texts. The low four bits of the strips left and right of the picture, which
black columns set apart, are the two halves of each byte of compressed JSON, under a fixed sequence of random numbers.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backend.errors import BadCheckpoint, BadImage, FileError
from backend.images.png_text import SIGNATURE, read_png_text
from backend.images.safe_open import MAX_BYTES, open_image
from backend.weights.pickle_conversion import VALUES
from backend.weights.source import InMemory

PICTURES = (".png", ".webp")
_TEXT_KEY = "sd-ti-embedding"
_TENSOR = "TORCHTENSOR"
_PARAMETERS = "string_to_param"
_MAX_JSON = 32 << 20  # bytes: 75 vectors for SD 2 as decimal numbers take 2 MB
_PLAIN = (str, int, float, bool, type(None))

Strip = npt.NDArray[np.uint8]  # [rows, columns, 3], low four bits


def is_picture_with_embedding(path: Path) -> bool:
    """Whether a picture is a textual inversion and not a mere preview. Damaged ones are not."""
    try:
        return _content(path) is not None
    except (FileError, OSError):
        return False


def embedding_in_picture(path: Path) -> InMemory:
    """The vectors in a picture, under A1111's names. Raises BadImage and BadCheckpoint."""
    content = _content(path)
    if content is None:
        raise BadCheckpoint(path, "it is a picture without a textual inversion in it.")
    parameters = content.get(_PARAMETERS)
    found = cast("dict[str, Any]", parameters) if isinstance(parameters, dict) else {}
    tensors = {f"{_PARAMETERS}.{name}": _tensor(path, value) for name, value in found.items()}
    values = {name: value for name, value in content.items() if isinstance(value, _PLAIN)}
    return InMemory(tensors, metadata={VALUES: json.dumps(values)}, origin=path)


def _content(path: Path) -> dict[str, Any] | None:
    if path.stat().st_size > MAX_BYTES:
        raise BadImage(path, f"it is larger than {MAX_BYTES // 2**20} MiB, so it was not read.")
    data = path.read_bytes()
    packed = _in_text(data, path) if data.startswith(SIGNATURE) and _TEXT_KEY.encode() in data else None
    packed = packed or _hidden(np.asarray(open_image(data, path.name)))
    if packed is None:
        return None
    try:
        content: Any = json.loads(packed)
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(path, "the textual inversion in it is damaged. Download it again.") from error
    return cast("dict[str, Any]", content) if isinstance(content, dict) else None


def _in_text(data: bytes, path: Path) -> bytes | None:
    """A text that is too long to be read stands in the picture, too."""
    try:
        return base64.b64decode(read_png_text(data, path.name).get(_TEXT_KEY, ""))
    except (BadImage, ValueError):
        return None


def _hidden(pixels: npt.NDArray[np.uint8]) -> bytes | None:
    """pixels: [H, W, 3]."""
    low = _without_black_edges(pixels) & np.uint8(0x0F)
    black = np.flatnonzero(np.max(low, axis=(0, 2), initial=0) == 0)
    if len(black) < 2:
        return None
    lower, upper = low[:, : black.min()], low[:, black.max() + 1 :]
    if not lower.size or lower.shape != upper.shape:
        return None
    packed = _unmasked(upper) << np.uint8(4) | _unmasked(lower)
    inflater = zlib.decompressobj()
    try:
        found = inflater.decompress(packed.tobytes(), _MAX_JSON)
    except zlib.error:
        return None
    return found if inflater.eof else None


def _without_black_edges(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    bright = np.min(pixels, axis=2) > 0
    rows, columns = np.flatnonzero(np.any(bright, axis=1)), np.flatnonzero(np.any(bright, axis=0))
    if not len(rows):
        return pixels[:0, :0]
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _unmasked(strip: Strip) -> Strip:
    return strip ^ _mask(strip.size).reshape(strip.shape)


def _mask(count: int) -> Strip:
    """The low bits of a linear congruential generator (Numerical Recipes' numbers) that starts at 0."""
    factor, step = 1_664_525, 1_013_904_223
    states = np.array([step], dtype=np.uint64)
    while len(states) < count:  # twice as many at a time: as many steps ahead as there are states is one step, too
        states = np.concatenate([states, (states * np.uint64(factor) + np.uint64(step)) & np.uint64(0xFFFFFFFF)])
        factor, step = factor * factor % 2**32, (factor * step + step) % 2**32
    return (states[:count] % 255).astype(np.uint8) & np.uint8(0x0F)


def _tensor(path: Path, value: Any) -> Tensor:
    numbers = cast("dict[str, Any]", value).get(_TENSOR) if isinstance(value, dict) else None
    try:
        return torch.tensor(numbers, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise BadCheckpoint(path, "the textual inversion in it is damaged. Download it again.") from error
