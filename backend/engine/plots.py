"""Plots: boards of pictures that are jobs like others, kept on the disk until somebody removes them."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from backend.engine.job import JobState, JobView
from backend.engine.plot_cells import cell_request, in_order
from backend.engine.plot_request import PlotRequest
from backend.errors import BadImage, EmulsionError, OutputError, RequestError, UnknownName
from backend.events import Event, JobCancelled, JobDone, JobFailed
from backend.images.grid import compose_grid
from backend.images.safe_open import open_image
from backend.merging.rule import Rule
from backend.registry import Registry
from backend.request import GenerationRequest
from backend.weights.atomic import told_as_output_errors, write_atomically

_log = logging.getLogger(__name__)
_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """x, y: which values. state: of its job. image: path of the picture, "" while there is none."""

    x: int
    y: int
    job: str
    state: str = JobState.QUEUED.value
    image: str = ""
    width: int = 0
    height: int = 0
    error: str = ""

    @property
    def has_ended(self) -> bool:
        return self.state not in (JobState.QUEUED.value, JobState.RUNNING.value)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """cells: row by row. grid: path of the picture of all, "" until all have ended. time: when it was asked for."""

    id: str
    time: str
    request: PlotRequest
    cells: tuple[Cell, ...]
    grid: str = ""

    @property
    def has_ended(self) -> bool:
        return all(cell.has_ended for cell in self.cells)


class JobQueue:
    """What plots need of the engine.

    submit: queues a job and gives its id. job, cancel: the engine's. save_grid: writes a picture.
    """

    def __init__(
        self,
        submit: Callable[[GenerationRequest], str],
        job: Callable[[str], JobView],
        cancel: Callable[[str], None],
        save_grid: Callable[[npt.NDArray[np.uint8], int, dict[str, str]], Path],
    ) -> None:
        self.submit = submit
        self.job = job
        self.cancel = cancel
        self.save_grid = save_grid


class Plots:
    """folder: one JSON file for each plot. Hears the engine's events (`hear`)."""

    def __init__(self, folder: Path, queue: JobQueue, rules: Registry[Rule]) -> None:
        self._folder = folder
        self._queue = queue
        self._rules = rules
        self._lock = threading.RLock()
        self._plots = {plot.id: plot for plot in _read_all(folder)}

    def take_up(self) -> None:
        """See what became of the jobs since the program ended."""
        for plot in self.all():
            self._look_again(plot.id)

    def submit(self, request: PlotRequest) -> Plot:
        """Queue a job for every cell. What refuses one of them refuses the plot, and then none is queued."""
        jobs: dict[tuple[int, int], str] = {}
        try:
            for x, y in in_order(request):
                jobs[x, y] = self._queue.submit(cell_request(request, x, y, self._rules))
        except EmulsionError:
            for job in jobs.values():
                self._queue.cancel(job)
            raise
        cells = tuple(Cell(x=x, y=y, job=jobs[x, y]) for y in range(request.rows) for x in range(len(request.x.values)))
        time = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        plot = Plot(id=secrets.token_hex(8), time=time, request=request, cells=cells)
        with self._lock:
            self._keep(plot)
        self._look_again(plot.id)  # some may have ended meanwhile
        return self.find(plot.id)

    def all(self) -> list[Plot]:
        """The newest first."""
        with self._lock:
            return sorted(self._plots.values(), key=lambda plot: plot.time, reverse=True)

    def find(self, plot_id: str) -> Plot:
        """With the states of this moment. Raises UnknownName."""
        with self._lock:
            if plot_id not in self._plots:
                raise UnknownName("plot", plot_id, [plot.id for plot in self.all()])
            plot = self._plots[plot_id]
        return dataclasses.replace(plot, cells=tuple(self._seen(cell) for cell in plot.cells))

    def remove(self, plot_id: str) -> None:
        """Cancel what has not ended; pictures stay. Raises UnknownName, OutputError."""
        plot = self.find(plot_id)
        with self._lock:
            del self._plots[plot_id]
        with told_as_output_errors(self._file(plot)):
            self._file(plot).unlink(missing_ok=True)
        for cell in plot.cells:
            if not cell.has_ended:
                self._queue.cancel(cell.job)

    def hear(self, event: Event) -> None:
        """A job has ended, which may be a cell's."""
        if isinstance(event, JobDone | JobFailed | JobCancelled):
            with self._lock:
                found = [plot.id for plot in self._plots.values() if any(c.job == event.job_id for c in plot.cells)]
            for plot_id in found:
                self._look_again(plot_id)

    def _look_again(self, plot_id: str) -> None:
        with self._lock:
            plot = self._plots.get(plot_id)
            if plot is None or plot.grid:
                return
            seen = dataclasses.replace(plot, cells=tuple(self._seen(cell) for cell in plot.cells))
            if seen.has_ended:
                seen = dataclasses.replace(seen, grid=self._grid(seen))
            if seen != plot:
                self._keep(seen)

    def _seen(self, cell: Cell) -> Cell:
        if cell.has_ended:
            return cell
        try:
            job = self._queue.job(cell.job)
        except UnknownName:
            return dataclasses.replace(cell, state=JobState.FAILED.value, error="The job is not known any more.")
        seen = dataclasses.replace(cell, state=job.state.value, error=job.error)
        if not job.images:
            return seen
        image = job.images[0]
        return dataclasses.replace(seen, image=str(image.path), width=image.width, height=image.height)

    def _grid(self, plot: Plot) -> str:
        """Its path; "" when it could not be written, which is told in the log alone."""
        width = len(plot.request.x.values)
        shown = [_shown(cell) for cell in plot.cells]
        pixels = compose_grid(
            [shown[start : start + width] for start in range(0, len(shown), width)],
            [plot.request.x.label(index) for index in range(width)],
            [] if plot.request.y is None else [plot.request.y.label(index) for index in range(plot.request.rows)],
        )
        texts = {"emulsion-plot": json.dumps(plot.request.to_mapping(), ensure_ascii=False)}
        try:
            return str(self._queue.save_grid(pixels, plot.request.request.seed, texts))
        except OutputError as error:
            _log.warning("the picture of a plot is not kept: %s", error)
            return ""

    def _keep(self, plot: Plot) -> None:
        self._plots[plot.id] = plot
        try:
            write_atomically(self._file(plot), json.dumps(_mapping(plot), ensure_ascii=False).encode())
        except OutputError as error:
            _log.warning("the plot is not kept for the next start: %s", error)

    def _file(self, plot: Plot) -> Path:
        return self._folder / f"{plot.id}.json"


def _shown(cell: Cell) -> Image.Image | str:
    if not cell.image:
        return f"{cell.state}: {cell.error}" if cell.error else cell.state
    try:
        return open_image(Path(cell.image).read_bytes(), Path(cell.image).name)
    except (OSError, BadImage):
        return "the picture is gone"


def _mapping(plot: Plot) -> dict[str, Any]:
    return {
        "id": plot.id,
        "time": plot.time,
        "request": plot.request.to_mapping(),
        "cells": [dataclasses.asdict(cell) for cell in plot.cells],
        "grid": plot.grid,
    }


def _read_all(folder: Path) -> list[Plot]:
    return [plot for file in sorted(folder.glob("*.json")) if (plot := _read(file)) is not None]


def _read(file: Path) -> Plot | None:
    try:
        content: Any = json.loads(file.read_bytes())
        if not _ID.fullmatch(content["id"]) or content["id"] != file.stem:
            raise ValueError("it belongs to another plot")
        return Plot(
            id=content["id"],
            time=str(content["time"]),
            request=PlotRequest.from_mapping(content["request"]),
            cells=tuple(Cell(**cell) for cell in content["cells"]),
            grid=str(content["grid"]),
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError, RequestError) as error:
        _log.warning("the plot in %s cannot be read (%s); it is left out", file.name, error)
        return None
