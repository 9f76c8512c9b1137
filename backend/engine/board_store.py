"""Boards on the disk: which there are, and what has become of each of their cells."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from backend.engine.batch_request import BatchRequest
from backend.engine.board import Board, BoardRequest, Cell
from backend.engine.plot_request import PlotRequest
from backend.engine.sqlite_file import open_sqlite
from backend.errors import EmulsionError, OutputError

_log = logging.getLogger(__name__)
_VERSION = 1
_PLOT, _BATCH = "plot", "batch"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS boards (
    id TEXT PRIMARY KEY,
    time TEXT NOT NULL,
    kind TEXT NOT NULL,
    request TEXT NOT NULL,
    grid TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS cells (
    board TEXT NOT NULL,
    position INTEGER NOT NULL,
    at TEXT NOT NULL,
    job TEXT NOT NULL,
    state TEXT NOT NULL,
    image TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    error TEXT NOT NULL,
    PRIMARY KEY (board, position)
) WITHOUT ROWID;
"""


class BoardStore:
    """A SQLite file, of which one cell can change without the others. Methods that write raise OutputError."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.commit()

    @classmethod
    def open(cls, file: Path) -> BoardStore:
        """A damaged file, or one of a newer version, is moved aside and told in the log.

        Where none can be made, boards are kept for this run only, which the log tells, too.
        """
        try:
            return cls(open_sqlite(file, title="list of boards", version=_VERSION, seconds_to_wait=5))
        except (OSError, sqlite3.Error) as error:
            _log.warning("%s cannot be used (%s); boards are not kept for the next start", file.name, error)
            return cls.in_memory()

    @classmethod
    def in_memory(cls) -> BoardStore:
        return cls(sqlite3.connect(":memory:", check_same_thread=False))

    def add(self, board: Board) -> None:
        """Keep a board with all its cells, in place of one of the same id."""
        kind = _PLOT if isinstance(board.request, PlotRequest) else _BATCH
        request = json.dumps(board.request.to_mapping(), ensure_ascii=False)
        with self._writing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO boards (id, time, kind, request, grid) VALUES (?, ?, ?, ?, ?)",
                (board.id, board.time, kind, request, board.grid),
            )
            _write_cells(connection, board.id, enumerate(board.cells))

    def save(self, board: Board, positions: Iterable[int]) -> None:
        """Write the grid's path, and the cells at these positions."""
        with self._writing() as connection:
            connection.execute("UPDATE boards SET grid = ? WHERE id = ?", (board.grid, board.id))
            _write_cells(connection, board.id, ((position, board.cells[position]) for position in positions))

    def remove(self, board_id: str) -> None:
        with self._writing() as connection:
            connection.execute("DELETE FROM cells WHERE board = ?", (board_id,))
            connection.execute("DELETE FROM boards WHERE id = ?", (board_id,))

    def all(self) -> list[Board]:
        """What can be read; the log tells of the rest."""
        with self._lock:
            boards = self._connection.execute("SELECT id, time, kind, request, grid FROM boards").fetchall()
            cells = self._connection.execute(
                "SELECT board, at, job, state, image, width, height, error FROM cells ORDER BY board, position"
            ).fetchall()
        by_board: dict[str, list[Cell]] = {}
        for board_id, *values in cells:
            by_board.setdefault(board_id, []).append(_cell(values))
        return [board for row in boards if (board := _board(row, by_board.get(row[0], []))) is not None]

    def take_in(self, folder: Path) -> None:
        """Plots that earlier versions kept as one JSON file each move in here."""
        for file in sorted(folder.glob("*.json")):
            if (board := _old_plot(file)) is None:
                continue
            self.add(board)
            file.unlink(missing_ok=True)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _writing(self) -> _Writing:
        return _Writing(self._connection, self._lock)


class _Writing:
    """One transaction, whose failure is an OutputError."""

    def __init__(self, connection: sqlite3.Connection, lock: threading.Lock) -> None:
        self._connection = connection
        self._lock = lock

    def __enter__(self) -> sqlite3.Connection:
        self._lock.acquire()
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            if error is None:
                self._connection.commit()
            else:
                self._connection.rollback()
        except sqlite3.Error as problem:
            error = problem
        finally:
            self._lock.release()
        if isinstance(error, sqlite3.Error):
            raise OutputError(
                f"The list of boards cannot be written ({error}). Free some space on the disk of the data folder, or "
                "choose another folder with --data-dir."
            ) from error


def _write_cells(connection: sqlite3.Connection, board_id: str, cells: Iterable[tuple[int, Cell]]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO cells (board, position, at, job, state, image, width, height, error) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (board_id, position, json.dumps(cell.at), cell.job, cell.state, cell.image, cell.width, cell.height,
             cell.error)
            for position, cell in cells
        ],
    )  # fmt: skip


def _cell(values: list[Any]) -> Cell:
    at, job, state, image, width, height, error = values
    place = tuple(int(index) for index in json.loads(at))
    return Cell(at=place, job=job, state=state, image=image, width=width, height=height, error=error)


def _board(row: tuple[str, str, str, str, str], cells: list[Cell]) -> Board | None:
    board_id, time, kind, request, grid = row
    try:
        found = _request(kind, json.loads(request))
    except (ValueError, TypeError, KeyError, RecursionError, EmulsionError) as error:
        _log.warning("the board %s cannot be read (%s); it is left out", board_id, error)
        return None
    return Board(id=board_id, time=time, request=found, cells=tuple(cells), grid=grid)


def _request(kind: str, values: Mapping[str, Any]) -> BoardRequest:
    return PlotRequest.from_mapping(values) if kind == _PLOT else BatchRequest.from_mapping(values)


def _old_plot(file: Path) -> Board | None:
    try:
        content: Any = json.loads(file.read_bytes())
        request = PlotRequest.from_mapping(content["request"])
        cells = tuple(_old_cell(values, len(request.sizes)) for values in content["cells"])
        return Board(
            id=str(content["id"]), time=str(content["time"]), request=request, cells=cells, grid=str(content["grid"])
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError, EmulsionError) as error:
        _log.warning("the plot in %s cannot be read (%s); it is left out", file.name, error)
        return None


def _old_cell(values: Mapping[str, Any], num_axes: int) -> Cell:
    others = {name: value for name, value in values.items() if name not in ("x", "y")}
    return Cell(at=(int(values["x"]), int(values["y"]))[:num_axes], **others)
