"""Many pictures in one, in rows and columns with headings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

MAX_PIXELS = 40_000_000  # what every program opens, and ours shows as a thumbnail
MIN_SIDE = 32
Shown: TypeAlias = Image.Image | str
"""A picture, or why there is none."""
_GAP = 8
_BACKGROUND, _EMPTY, _TEXT = (255, 255, 255), (225, 225, 225), (20, 20, 20)
_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, kw_only=True)
class Section:
    """One of several grids under each other. heading: "" for none. cells: in rows."""

    heading: str = ""
    cells: Sequence[Sequence[Shown]]


def cell_size(sizes: Sequence[tuple[int, int]], num_cells: int) -> tuple[int, int]:
    """Width and height of a cell: those of the largest picture, or less where all would have too many pixels."""
    width = max((width for width, _ in sizes), default=256)
    height = max((height for _, height in sizes), default=256)
    scale = min(1.0, math.sqrt(MAX_PIXELS / (max(1, num_cells) * width * height)))
    return max(MIN_SIDE, int(width * scale)), max(MIN_SIDE, int(height * scale))


def compose_grid(
    cells: Sequence[Sequence[Shown]], columns: Sequence[str], rows: Sequence[str]
) -> npt.NDArray[np.uint8]:
    """The picture [H, W, 3] of cells in rows. columns, rows: headings; no `rows` leaves their column out."""
    return compose_sections([Section(cells=cells)], columns, rows)


def compose_sections(sections: Sequence[Section], columns: Sequence[str], rows: Sequence[str]) -> npt.NDArray[np.uint8]:
    """The picture [H, W, 3] of several grids with the same headings, one under the other.

    All cells have the size of the largest picture, which is made smaller where the whole would have more than 40
    million pixels.
    """
    shown = [cell for section in sections for row in section.cells for cell in row]
    sizes = [cell.size for cell in shown if isinstance(cell, Image.Image)]
    width, height = cell_size(sizes, sum(len(columns) * len(section.cells) for section in sections))
    font = ImageFont.load_default(min(48, max(11, min(width, height) // 18)))
    frame = _Frame(width=width, height=height, font=font, columns=columns, rows=rows)
    tops, top = [], 0
    for section in sections:
        tops.append(top)
        top += frame.section_height(section)
    grid = Image.new("RGB", (frame.width_of_all, top), _BACKGROUND)
    for section, start in zip(sections, tops, strict=True):
        frame.draw(grid, section, start)
    return np.asarray(grid)


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Where everything of a section goes. width, height: of a cell."""

    width: int
    height: int
    font: _Font
    columns: Sequence[str]
    rows: Sequence[str]

    @property
    def line(self) -> int:
        return int(self.font.getbbox("Ág")[3]) + 2

    @property
    def side(self) -> int:
        """Width of the column of headings."""
        if not self.rows:
            return 0
        return min(self.width, max(int(self.font.getlength(text)) for text in self.rows) + 2 * _GAP)

    @property
    def width_of_all(self) -> int:
        return self.side + len(self.columns) * (self.width + _GAP) + _GAP

    def head(self, section: Section) -> int:
        return (2 * self.line if any(self.columns) else 0) + (2 * self.line if section.heading else 0) + _GAP

    def section_height(self, section: Section) -> int:
        return self.head(section) + len(section.cells) * (self.height + _GAP) + _GAP

    def draw(self, grid: Image.Image, section: Section, start: int) -> None:
        draw = ImageDraw.Draw(grid)
        top = start + _GAP
        if section.heading:
            _write(draw, self.font, section.heading, (_GAP, top), self.width_of_all - 2 * _GAP, 2)
            top += 2 * self.line
        for x, text in enumerate(self.columns):
            _write(draw, self.font, text, (self._left(x), top), self.width, 2)
        for y, row in enumerate(section.cells):
            top = start + self.head(section) + _GAP + y * (self.height + _GAP)
            if self.rows:
                _write(draw, self.font, self.rows[y], (_GAP, top), self.side - _GAP, max(1, self.height // self.line))
            for x, cell in enumerate(row):
                self._draw_cell(grid, draw, cell, self._left(x), top)

    def _left(self, x: int) -> int:
        return self.side + _GAP + x * (self.width + _GAP)

    def _draw_cell(self, grid: Image.Image, draw: ImageDraw.ImageDraw, cell: Shown, left: int, top: int) -> None:
        if not isinstance(cell, str):
            grid.paste(_fitted(cell, self.width, self.height), (left, top))
            return
        draw.rectangle((left, top, left + self.width - 1, top + self.height - 1), _EMPTY)
        lines = max(1, self.height // self.line - 1)
        _write(draw, self.font, cell, (left + _GAP, top + _GAP), self.width - 2 * _GAP, lines)


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


def _write(draw: ImageDraw.ImageDraw, font: _Font, text: str, at: tuple[int, int], width: int, max_lines: int) -> None:
    """Break between any two letters; the end of what does not fit is left out."""
    lines: list[str] = []
    for letter in text:
        if lines and font.getlength(lines[-1] + letter) <= width:
            lines[-1] += letter
        elif len(lines) == max_lines:
            break
        else:
            lines.append(letter)
    draw.multiline_text(at, "\n".join(lines), _TEXT, font=font, spacing=2)
