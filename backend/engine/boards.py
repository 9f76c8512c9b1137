"""Boards: pictures that are jobs like others, queued a few at a time, and kept until somebody removes them."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend.engine.batch_items import BatchItems
from backend.engine.batch_request import BatchRequest
from backend.engine.board import WAITING, Board, BoardRequest, Cell
from backend.engine.board_grid import grid_pixels, grid_texts
from backend.engine.board_store import BoardStore
from backend.engine.job import JobState, JobView
from backend.engine.loopback import round_request
from backend.engine.plot_cells import Place, cell_request, in_order, places, single_changes
from backend.engine.plot_request import PlotRequest
from backend.errors import EmulsionError, OutputError, RequestError, UnknownName
from backend.events import Event, JobCancelled, JobDone, JobFailed
from backend.merging.rule import Rule
from backend.registry import Registry
from backend.request import GenerationRequest

_log = logging.getLogger(__name__)
MAX_AHEAD = 64  # jobs of one board that wait at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobQueue:
    """What boards need of the engine.

    submit: queues a job and gives its id. check: raises what `submit` would. room: how many jobs may still be queued.
    job, cancel: the engine's. save_grid: writes a picture. keep_picture: stores a file and gives its hash.
    """

    submit: Callable[[GenerationRequest], str]
    check: Callable[[GenerationRequest], object]
    room: Callable[[], int]
    job: Callable[[str], JobView]
    cancel: Callable[[str], None]
    save_grid: Callable[[npt.NDArray[np.uint8], int, dict[str, str]], Path]
    keep_picture: Callable[[bytes, str], str]


class Boards:
    """Hears the engine's events (`hear`): whenever a job has ended, what waits moves up."""

    def __init__(self, store: BoardStore, queue: JobQueue, rules: Registry[Rule], items: BatchItems) -> None:
        self._store = store
        self._queue = queue
        self._rules = rules
        self._items = items
        self._lock = threading.RLock()
        self._filling = threading.RLock()
        self._boards = {board.id: board for board in store.all()}
        self._orders: dict[str, list[int]] = {}
        self._unfinished = {board.id for board in self._boards.values() if not board.has_ended}
        self._jobs: dict[str, tuple[str, int]] = {}
        for board in self._boards.values():
            self._jobs.update({cell.job: (board.id, n) for n, cell in enumerate(board.cells) if cell.job})

    def take_up(self) -> None:
        """See what became of the jobs since the program ended, and go on."""
        for board in self.all():
            for position, cell in enumerate(board.cells):
                if cell.job and not cell.has_ended:
                    self._look_at(board.id, position)
            self._go_on(board.id)

    def submit_plot(self, plot: PlotRequest) -> Board:
        """Queue what a plot asks for. What refuses a value of an axis refuses the plot. Raises RequestError.

        Of a long axis only so many values are planned beforehand as can be queued at once; the others are checked as
        fields are, and fail as cells where that is not enough.
        """
        planned: Counter[str] = Counter()
        for where, value, request in single_changes(plot, self._rules):
            if planned[where] == MAX_AHEAD:
                continue
            planned[where] += 1
            try:
                self._queue.check(request)
            except EmulsionError as error:
                raise RequestError(f"{where}.values", f'"{value:.100}": {error}') from error
        self._queue.check(plot.request)
        return self._begin(plot)

    def submit_batch(self, batch: BatchRequest) -> Board:
        """Queue a picture for every item. Items that are broken cost themselves only. Raises RequestError."""
        return self._begin(self._items.found(batch))

    def _begin(self, request: BoardRequest) -> Board:
        time = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        cells = tuple(Cell(at=place) for place in places(request.sizes))
        board = Board(id=secrets.token_hex(8), time=time, request=request, cells=cells)
        with self._lock:
            self._boards[board.id] = board
            self._unfinished.add(board.id)
            self._write(lambda: self._store.add(board))
        self._go_on(board.id)
        return self.find(board.id)

    def all(self) -> list[Board]:
        """The newest first."""
        with self._lock:
            return sorted(self._boards.values(), key=lambda board: board.time, reverse=True)

    def find(self, board_id: str) -> Board:
        """With the states of this moment. Raises UnknownName."""
        with self._lock:
            if board_id not in self._boards:
                raise UnknownName("plot", board_id, [board.id for board in self.all()])
            board = self._boards[board_id]
        return dataclasses.replace(board, cells=tuple(self._seen(cell) for cell in board.cells))

    def cancel(self, board_id: str) -> Board:
        """End what has not ended. Raises UnknownName."""
        with self._filling:
            waiting = [number for number, cell in enumerate(self.find(board_id).cells) if cell.state == WAITING]
            self._change(board_id, waiting, state=JobState.CANCELLED.value)
        for cell in self.find(board_id).cells:
            if cell.job and not cell.has_ended:
                self._queue.cancel(cell.job)
        self._go_on(board_id)
        return self.find(board_id)

    def retry(self, board_id: str) -> Board:
        """Try again what failed or was cancelled. Raises UnknownName."""
        board = self.find(board_id)
        with self._filling:
            again = [number for number, cell in enumerate(board.cells) if cell.can_be_tried_again]
            self._change(board_id, again, job="", state=WAITING, error="")
            with self._lock:
                self._boards[board_id] = dataclasses.replace(self._boards[board_id], grid="")
                self._unfinished.add(board_id)
        self._go_on(board_id)
        return self.find(board_id)

    def remove(self, board_id: str) -> None:
        """Cancel what has not ended, and forget the board; pictures stay. Raises UnknownName."""
        board = self.find(board_id)
        with self._filling, self._lock:
            del self._boards[board_id]
            self._unfinished.discard(board_id)
            self._orders.pop(board_id, None)
            self._jobs = {job: place for job, place in self._jobs.items() if place[0] != board_id}
            self._write(lambda: self._store.remove(board_id))
        for cell in board.cells:
            if cell.job and not cell.has_ended:
                self._queue.cancel(cell.job)

    def save_grid(self, board_id: str) -> Path:
        """A picture of what is finished now. Raises UnknownName, OutputError, and RequestError for a batch."""
        board = self.find(board_id)
        if not isinstance(board.request, PlotRequest):
            raise RequestError("plot", "is a batch, whose pictures have no places in a grid")
        pixels = grid_pixels(board, board.request)
        return self._queue.save_grid(pixels, board.request.request.seed, grid_texts(board, board.request))

    def hear(self, event: Event) -> None:
        """A job has ended, which may be a cell's."""
        if not isinstance(event, JobDone | JobFailed | JobCancelled):
            return
        with self._lock:
            found = self._jobs.get(event.job_id)
            unfinished = sorted(self._unfinished, key=lambda board_id: self._boards[board_id].time)
        if found is not None:
            self._look_at(*found)
        for board_id in unfinished:  # there is room for one more
            self._go_on(board_id)

    def close(self) -> None:
        self._store.close()

    def _go_on(self, board_id: str) -> None:
        """Queue what can be queued, and compose the grid when all has ended."""
        with self._filling:
            while (position := self._next(board_id)) is not None:
                self._start(board_id, position)
            with self._lock:
                board = self._boards.get(board_id)
                if board is None or not board.has_ended:
                    return
                self._unfinished.discard(board_id)
            if isinstance(board.request, PlotRequest) and not board.grid:
                self._keep_grid(board_id)

    def _next(self, board_id: str) -> int | None:
        """The cell that is to be queued now, or that cannot be made any more."""
        with self._lock:
            board = self._boards.get(board_id)
            if board is None or board_id not in self._unfinished:
                return None
            order = self._order(board)
        ahead = sum(bool(cell.job) and not cell.has_ended for cell in board.cells)
        if ahead >= MAX_AHEAD or self._queue.room() <= 0:
            return None
        is_ready = (n for n in order if board.cells[n].state == WAITING and _is_ready(board, n))
        return next(is_ready, None)

    def _order(self, board: Board) -> list[int]:
        """Positions of the cells in the order in which they are queued."""
        if board.id not in self._orders:
            request, numbers = board.request, {cell.at: number for number, cell in enumerate(board.cells)}
            order = in_order(request) if isinstance(request, PlotRequest) else places(request.sizes)
            self._orders[board.id] = [numbers[place] for place in order]
        return self._orders[board.id]

    def _start(self, board_id: str, position: int) -> None:
        with self._lock:
            board = self._boards[board_id]
        try:
            job = self._queue.submit(self._request(board, position))
        except EmulsionError as error:
            self._change(board_id, [position], state=JobState.FAILED.value, error=str(error))
            return
        with self._lock:
            self._jobs[job] = board_id, position
        self._change(board_id, [position], job=job, state=JobState.QUEUED.value)
        self._look_at(board_id, position)  # it may have ended already

    def _request(self, board: Board, position: int) -> GenerationRequest:
        """Raises EmulsionError."""
        request = self._first_round(board.request, board.cells[position].at)
        number, loopback = _round(board, position), board.request.loopback
        if loopback is None or number == 0:
            return request
        return round_request(request, loopback, number, self._result_before(board, position))

    def _first_round(self, request: BoardRequest, place: Place) -> GenerationRequest:
        if isinstance(request, PlotRequest):
            return cell_request(request, place, self._rules)
        return self._items.request(request, place[0])

    def _result_before(self, board: Board, position: int) -> str:
        image = board.cells[_before(board, position)].image
        if not image:
            raise RequestError("loopback", "the round before this one made no picture")
        try:
            data = Path(image).read_bytes()
        except OSError as error:
            raise RequestError("loopback", f"the picture of the round before is gone ({error.strerror})") from error
        return self._queue.keep_picture(data, Path(image).name)

    def _look_at(self, board_id: str, position: int) -> None:
        """Take over what became of a cell's job."""
        with self._lock:
            board = self._boards.get(board_id)
            if board is None:
                return
            before = board.cells[position]
            seen = self._seen(before)
            if seen != before:
                self._set(board, {position: seen})

    def _change(self, board_id: str, positions: Sequence[int], **changes: str) -> None:
        with self._lock:
            if (board := self._boards.get(board_id)) is not None:
                cells = {number: dataclasses.replace(board.cells[number], **changes) for number in positions}
                self._set(board, cells)

    def _set(self, board: Board, changed: Mapping[int, Cell]) -> None:
        cells = tuple(changed.get(number, cell) for number, cell in enumerate(board.cells))
        now = self._boards[board.id] = dataclasses.replace(board, cells=cells)
        self._write(lambda: self._store.save(now, list(changed)))

    def _seen(self, cell: Cell) -> Cell:
        if cell.has_ended or not cell.job:
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

    def _keep_grid(self, board_id: str) -> None:
        """When it cannot be written that is told in the log alone."""
        try:
            grid = str(self.save_grid(board_id))
        except OutputError as error:
            _log.warning("the picture of a plot is not kept: %s", error)
            return
        with self._lock:
            if (board := self._boards.get(board_id)) is not None:
                changed = self._boards[board_id] = dataclasses.replace(board, grid=grid)
                self._write(lambda: self._store.save(changed, []))

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OutputError as error:
            _log.warning("the board is not kept for the next start: %s", error)


def _round(board: Board, position: int) -> int:
    return 0 if board.request.loopback is None else board.cells[position].at[-1]


def _before(board: Board, position: int) -> int:
    """Position of the round before."""
    return position - len(board.cells) // board.request.sizes[-1]  # rounds change slowest


def _is_ready(board: Board, position: int) -> bool:
    """Whether it needs no result that is not there yet."""
    return _round(board, position) == 0 or board.cells[_before(board, position)].has_ended
