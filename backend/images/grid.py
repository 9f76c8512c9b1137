"""Many pictures in one, in rows and columns with headings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

MAX_PIXELS = 40_000_000
_GAP = 8
_BACKGROUND, _EMPTY, _TEXT = (255, 255, 255), (225, 225, 225), (20, 20, 20)


def compose_grid(
    cells: Sequence[Sequence[Image.Image | str]], columns: Sequence[str], rows: Sequence[str]
) -> npt.NDArray[np.uint8]:
    """The picture [H, W, 3] of cells in rows; a text in place of a picture says why there is none.

    columns, rows: headings; no `rows` leaves their column out. All cells have the size of the largest picture, which
    is made smaller where the whole would have more than 40 million pixels.
    """
    pictures = [cell for row in cells for cell in row if not isinstance(cell, str)]
    width = max((picture.width for picture in pictures), default=256)
    height = max((picture.height for picture in pictures), default=256)
    scale = min(1.0, math.sqrt(MAX_PIXELS / (len(columns) * len(cells) * width * height)))
    width, height = max(48, int(width * scale)), max(48, int(height * scale))
    font = ImageFont.load_default(max(11, min(width, height) // 18))
    line = int(font.getbbox("Ág")[3]) + 2
    head = 2 * line + _GAP
    side = (max(int(font.getlength(text)) for text in rows) + 2 * _GAP) if rows else 0
    side = min(side, width)
    size = side + len(columns) * (width + _GAP) + _GAP, head + len(cells) * (height + _GAP) + _GAP
    grid = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(grid)
    for x, text in enumerate(columns):
        left = side + _GAP + x * (width + _GAP)
        _write(draw, font, text, (left, _GAP), width, 2)
    for y, row in enumerate(cells):
        top = head + _GAP + y * (height + _GAP)
        if rows:
            _write(draw, font, rows[y], (_GAP, top), side - _GAP, max(1, height // line))
        for x, cell in enumerate(row):
            left = side + _GAP + x * (width + _GAP)
            if isinstance(cell, str):
                draw.rectangle((left, top, left + width - 1, top + height - 1), _EMPTY)
                _write(draw, font, cell, (left + _GAP, top + _GAP), width - 2 * _GAP, max(1, height // line - 1))
            else:
                grid.paste(_fitted(cell, width, height), (left, top))
    return np.asarray(grid)


def _fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture in the middle of a cell, smaller if it must be."""
    scale = min(1.0, width / picture.width, height / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    fitted = picture.convert("RGB")
    if size != picture.size:
        fitted = fitted.resize(size, Image.Resampling.LANCZOS)
    if size == (width, height):
        return fitted
    cell = Image.new("RGB", (width, height), _BACKGROUND)
    cell.paste(fitted, ((width - size[0]) // 2, (height - size[1]) // 2))
    return cell


def _write(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    text: str,
    at: tuple[int, int],
    width: int,
    max_lines: int,
) -> None:
    """Break between any two letters; the end of what does not fit is left out."""
    lines: list[str] = []
    for letter in text:
        if lines and font.getlength(lines[-1] + letter) <= width:
            lines[-1] += letter
        else:
            lines.append(letter)
    draw.multiline_text(at, "\n".join(lines[:max_lines]), _TEXT, font=font, spacing=2)
