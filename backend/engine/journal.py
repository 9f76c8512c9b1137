"""The queue on the disk: jobs survive the end of the program, however it comes."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.engine.job import JobState, JobView, SavedImage
from backend.engine.job_request import job_request_from, job_request_mapping
from backend.engine.sqlite_file import open_sqlite
from backend.errors import OutputError, RequestError, ServerError

_log = logging.getLogger(__name__)

MAX_ATTEMPTS = 2  # a job that was running when the program died twice is not tried again
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    request TEXT NOT NULL,
    images TEXT NOT NULL DEFAULT '[]',
    notices TEXT NOT NULL DEFAULT '[]',
    error TEXT NOT NULL DEFAULT '',
    error_kind TEXT NOT NULL DEFAULT '',
    seconds REAL NOT NULL DEFAULT 0
);
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A job as it was last written. attempts: how often it was started."""

    view: JobView
    attempts: int


class Journal:
    """A SQLite file in write-ahead mode; every change is on the disk when its method returns.

    Methods that write raise OutputError when that fails.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.commit()

    @classmethod
    def open(cls, file: Path) -> Journal:
        """A damaged file, or one of a newer version, is moved aside and told in the log.

        Raises ServerError when the file cannot be made, or belongs to a running program.
        """
        try:
            # Exclusive, because two programs that work off one queue would make every picture twice.
            connection = open_sqlite(file, title="job journal", version=_VERSION, seconds_to_wait=2, is_exclusive=True)
            return cls(connection)
        except OSError as error:
            raise ServerError(
                f"The data folder {file.parent} cannot be written ({error.strerror}). Choose another with --data-dir."
            ) from error
        except sqlite3.OperationalError as error:
            raise ServerError(
                f"Another Emulsion uses the data folder {file.parent} ({error}). End it, or give this one another with "
                "--data-dir."
            ) from error

    @classmethod
    def in_memory(cls) -> Journal:
        """A journal that ends with the program, for single jobs of the command line."""
        return cls(sqlite3.connect(":memory:", check_same_thread=False))

    def add(self, view: JobView) -> None:
        self._write(
            "INSERT INTO jobs (id, state, request) VALUES (?, ?, ?)",
            (view.id, view.state.value, json.dumps(job_request_mapping(view.request))),
        )

    def started(self, job_id: str) -> None:
        self._write("UPDATE jobs SET state = ?, attempts = attempts + 1 WHERE id = ?", (JobState.RUNNING.value, job_id))

    def put_back(self, job_id: str) -> None:
        """A running job waits again; the attempt does not count, because the program was ended on purpose."""
        self._write("UPDATE jobs SET state = ?, attempts = attempts - 1 WHERE id = ?", (JobState.QUEUED.value, job_id))

    def save(self, view: JobView) -> None:
        """Write the state, the pictures and the end of a job."""
        images = [
            {
                "path": str(i.path),
                "seed": i.seed,
                "infotext": i.infotext,
                "width": i.width,
                "height": i.height,
                "before_hires": None if i.before_hires is None else str(i.before_hires),
            }
            for i in view.images
        ]
        self._write(
            "UPDATE jobs SET state = ?, images = ?, notices = ?, error = ?, error_kind = ?, seconds = ? WHERE id = ?",
            (
                view.state.value,
                json.dumps(images),
                json.dumps(view.notices),
                view.error,
                view.error_kind,
                view.seconds,
                view.id,
            ),
        )

    def entries(self, num_finished: int) -> list[Entry]:
        """All unfinished jobs and the last finished ones, in the order in which they were queued."""
        final = [state.value for state in JobState if state.is_final]
        marks = ", ".join("?" * len(final))
        with self._lock:
            rows = self._connection.execute(
                "SELECT id, state, attempts, request, images, notices, error, error_kind, seconds FROM jobs "
                f"WHERE state NOT IN ({marks}) OR position IN (SELECT position FROM jobs "
                f"WHERE state IN ({marks}) ORDER BY position DESC LIMIT ?) ORDER BY position",
                (*final, *final, num_finished),
            ).fetchall()
        return [entry for row in rows if (entry := _entry(row)) is not None]

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            with self._lock, self._connection:
                self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise OutputError(
                f"The job journal cannot be written ({error}). Free some space on the disk of the data folder, or "
                "choose another folder with --data-dir."
            ) from error


def _image(values: dict[str, Any]) -> SavedImage:
    return SavedImage(
        path=Path(values["path"]),
        seed=values["seed"],
        infotext=values["infotext"],
        width=values["width"],
        height=values["height"],
        before_hires=Path(before) if (before := values.get("before_hires")) else None,
    )


def _entry(row: tuple[str, str, int, str, str, str, str, str, float]) -> Entry | None:
    job_id, state, attempts, request, images, notices, error, error_kind, seconds = row
    try:
        view = JobView(
            id=job_id,
            state=JobState(state),
            request=job_request_from(json.loads(request)),
            images=tuple(_image(values) for values in json.loads(images)),
            notices=tuple(json.loads(notices)),
            error=error,
            error_kind=error_kind,
            seconds=seconds,
        )
    except (ValueError, TypeError, KeyError, RequestError) as problem:
        _log.warning("job %s of the journal cannot be read (%s); it is left out", job_id, problem)
        return None
    return Entry(view=view, attempts=attempts)
