"""A board: many pictures that were asked for together, each of them a job like others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from backend.engine.batch_request import BatchRequest
from backend.engine.job import JobState
from backend.engine.plot_request import PlotRequest

WAITING = "waiting"  # there is no job yet
BoardRequest: TypeAlias = PlotRequest | BatchRequest


@dataclass(frozen=True, kw_only=True)
class Cell:
    """at: which value of each axis, and which round. job: its id, "" while there is none. state: the job's, or WAITING.

    image: path of the picture, "" while there is none.
    """

    at: tuple[int, ...]
    job: str = ""
    state: str = WAITING
    image: str = ""
    width: int = 0
    height: int = 0
    error: str = ""

    @property
    def x(self) -> int:
        return self.at[0]

    @property
    def y(self) -> int:
        return self.at[1] if len(self.at) > 1 else 0

    @property
    def has_ended(self) -> bool:
        return self.state in (JobState.DONE.value, JobState.FAILED.value, JobState.CANCELLED.value)

    @property
    def can_be_tried_again(self) -> bool:
        return self.state in (JobState.FAILED.value, JobState.CANCELLED.value)


@dataclass(frozen=True, kw_only=True)
class Board:
    """cells: the first axis changes fastest. grid: path of the picture of all, "" until all have ended.

    time: when it was asked for, ISO 8601 in UTC.
    """

    id: str
    time: str
    request: BoardRequest
    cells: tuple[Cell, ...]
    grid: str = ""

    @property
    def has_ended(self) -> bool:
        return all(cell.has_ended for cell in self.cells)
