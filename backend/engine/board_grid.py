"""The one picture of all pictures of a plot, with the texts that A1111 gives it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend.engine.board import Board, Cell
from backend.engine.plot_cells import places
from backend.engine.plot_request import PlotRequest
from backend.errors import BadImage
from backend.images.grid import Section, Shown, cell_size, compose_sections
from backend.images.png_text import read_png_text
from backend.images.safe_open import open_image
from backend.pipeline.infotext import read_infotext, write_infotext, write_names
from backend.pipeline.metadata import INFOTEXT_KEY

PLOT_KEY = "emulsion-plot"
_LETTERS = "XYZ"


def grid_pixels(board: Board, plot: PlotRequest) -> npt.NDArray[np.uint8]:
    """The picture [H, W, 3] of what is finished; of the rest it says why not.

    The first axis goes to the right, the second down; each combination of the others has a grid of its own. The
    values of a single axis without order, such as lines, are broken into rows.
    """
    size = cell_size([(cell.width, cell.height) for cell in board.cells if cell.image], len(board.cells))
    shown = {cell.at: _shown(cell, size) for cell in board.cells}
    if len(plot.sizes) == 1 and plot.axes and plot.axes[0].kind == "line":
        return _in_rows(plot, shown)
    sizes = (*plot.sizes, 1)[: max(2, len(plot.sizes))]
    columns = plot.labels(0)
    rows = plot.labels(1) if len(plot.sizes) > 1 else []
    sections = [
        Section(
            heading=", ".join(plot.labels(2 + axis)[index] for axis, index in enumerate(others)),
            cells=[[shown[(x, y, *others)[: len(plot.sizes)]] for x in range(len(columns))] for y in range(sizes[1])],
        )
        for others in places(plot.sizes[2:])
    ]
    return compose_sections(sections, columns, rows)


def grid_texts(board: Board, plot: PlotRequest) -> dict[str, str]:
    """Texts of the PNG: the plot, and the first finished picture's infotext with what changes, in A1111's keys."""
    texts = {PLOT_KEY: json.dumps(plot.to_mapping(), ensure_ascii=False)}
    first = next((text for cell in board.cells if (text := _infotext(cell))), "")
    if first:
        read = read_infotext(first)
        parameters = {**read.parameters, **dict(_axis_parameters(plot))}
        texts[INFOTEXT_KEY] = write_infotext(read.prompt, read.negative_prompt, parameters)
    return texts


def _axis_parameters(plot: PlotRequest) -> Iterator[tuple[str, str]]:
    yield "Script", "X/Y/Z plot"
    for letter, axis in zip(_LETTERS, plot.axes, strict=False):
        yield f"{letter} Type", axis.facts.label
        yield f"{letter} Values", write_names([axis.text(index) for index in range(len(axis.choices))])
        if axis.kind == "seed":
            yield f"Fixed {letter} Values", ", ".join(map(str, axis.values))


def _in_rows(plot: PlotRequest, shown: dict[tuple[int, ...], Shown]) -> npt.NDArray[np.uint8]:
    """A list of pictures in about as many rows as columns, without headings."""
    cells = [shown[at] for at in sorted(shown)]
    columns = math.ceil(math.sqrt(len(cells)))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return compose_sections([Section(cells=rows)], [""] * columns, [])


def _shown(cell: Cell, size: tuple[int, int]) -> Shown:
    """The picture, not larger than it is shown: the others take memory, too."""
    if not cell.image:
        return f"{cell.state}: {cell.error}" if cell.error else cell.state
    try:
        picture = open_image(Path(cell.image).read_bytes(), Path(cell.image).name)
    except (OSError, BadImage):
        return "the picture is gone"
    picture.thumbnail(size)
    return picture


def _infotext(cell: Cell) -> str:
    if not cell.image:
        return ""
    try:
        return read_png_text(Path(cell.image).read_bytes()).get(INFOTEXT_KEY, "")
    except (OSError, BadImage):
        return ""
