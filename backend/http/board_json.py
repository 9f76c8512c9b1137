"""Boards as JSON."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from backend.engine.batch_request import BatchRequest
from backend.engine.board import Board, Cell
from backend.engine.plot_request import PlotRequest


class BoardJson:
    """output_dir: where pictures are served from."""

    def __init__(self, output_dir: Path) -> None:
        self._folder = output_dir

    def plot(self, board: Board) -> dict[str, Any]:
        """Of the first two axes also as `x` and `y`; the rounds of a loopback are an axis."""
        assert isinstance(board.request, PlotRequest)
        plot = board.request
        axes = self.axes(plot)
        return {
            **self._board(board),
            "request": plot.request.to_mapping(),
            "different_seeds": plot.different_seeds,
            "axes": axes,
            "x": axes[0],
            "y": axes[1] if len(axes) > 1 else None,
            "cells": [self._cell(cell, plot.request.prompt) for cell in board.cells],
            "grid": self.address(board.grid),
        }

    def axes(self, plot: PlotRequest) -> list[dict[str, Any]]:
        found = [
            {**axis.to_mapping(), "label": axis.title, "labels": plot.labels(number)}
            for number, axis in enumerate(plot.axes)
        ]
        if plot.loopback is not None:
            rounds: dict[str, Any] = {"kind": "loopback", "target": "", "values": []}
            found.append({**rounds, "label": "Round", "labels": plot.labels(len(plot.axes))})
        return found

    def batch(self, board: Board) -> dict[str, Any]:
        assert isinstance(board.request, BatchRequest)
        batch, items = board.request, board.request.items
        cells = [
            {**self._cell(cell, batch.request.prompt), "item": items[cell.at[0]].name, "round": cell.y}
            for cell in board.cells
        ]
        return {**self.batch_summary(board), "request": batch.request.to_mapping(), "cells": cells}

    def batch_summary(self, board: Board) -> dict[str, Any]:
        """states: how many pictures are in each."""
        assert isinstance(board.request, BatchRequest)
        return {
            **self._board(board),
            "folder": board.request.folder,
            "mask_folder": board.request.mask_folder,
            "reads": list(board.request.reads),
            "pictures": len(board.request.items),
            "states": Counter(cell.state for cell in board.cells),
        }

    def address(self, file: str, kind: str = "") -> str | None:
        """Where a picture is served; None when there is none, or it is not where pictures are served from."""
        path = Path(file)
        if not file or not path.is_relative_to(self._folder) or not path.exists():
            return None
        return f"outputs/{kind}{quote(path.relative_to(self._folder).as_posix())}"

    def _board(self, board: Board) -> dict[str, Any]:
        return {"id": board.id, "time": board.time, "has_ended": board.has_ended}

    def _cell(self, cell: Cell, prompt: str) -> dict[str, Any]:
        url, thumbnail = self.address(cell.image), self.address(cell.image, "thumb/")
        image = {"url": url, "thumbnail": thumbnail, "width": cell.width, "height": cell.height, "prompt": prompt}
        return {
            "at": list(cell.at),
            "x": cell.x,
            "y": cell.y,
            "job": cell.job or None,
            "state": cell.state,
            "image": image if url else None,
            "error": cell.error,
        }
