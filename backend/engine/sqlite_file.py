"""SQLite files of our own: what is damaged, or of a newer version, is moved aside, and a new one begins."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

_log = logging.getLogger(__name__)


def open_sqlite(
    file: Path, *, title: str, version: int, seconds_to_wait: float, is_exclusive: bool = False
) -> sqlite3.Connection:
    """A connection in write-ahead mode, for several threads that take turns.

    title: what the log calls it ("job journal"). version: up to which it can be read; the caller writes it.
    seconds_to_wait: for another program's lock. is_exclusive: lock the file until the connection is closed, and have
    every change on the disk before it counts.
    Raises OSError where the folder cannot be made, sqlite3.OperationalError for a file that is locked or no file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _connect(file, version, seconds_to_wait, is_exclusive)
    except _Unusable as error:
        kept = file.with_suffix(".unreadable.sqlite")
        _log.warning("the %s cannot be used (%s); it is kept as %s and a new one begins", title, error, kept.name)
    file.replace(kept)
    for companion in ("-wal", "-shm"):
        file.with_name(file.name + companion).unlink(missing_ok=True)
    return _connect(file, version, seconds_to_wait, is_exclusive)


class _Unusable(Exception):
    """The file is none of ours."""


def _connect(file: Path, version: int, seconds_to_wait: float, is_exclusive: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(file, check_same_thread=False, timeout=seconds_to_wait)
    try:
        if is_exclusive:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        if is_exclusive:
            connection.execute("PRAGMA synchronous = FULL")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > version:
            raise _Unusable(f"version {found} is newer than {version}")
        if connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise _Unusable("damaged")
        if is_exclusive:
            connection.execute("BEGIN IMMEDIATE")  # which takes the lock
            connection.commit()
    except sqlite3.OperationalError:
        connection.close()
        raise
    except (sqlite3.DatabaseError, _Unusable) as error:
        connection.close()
        raise _Unusable(str(error)) from error
    return connection
