"""A table on the disk that only grows at its end, up to a size: one line for each row, as CSV.

When the file is full it is put aside under a name with its date, and the oldest of those are deleted.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from unicodedata import category

from backend.extensions.api import write_atomically

from .rows import COLUMNS

FILE_NAME = "generation-log.csv"

_BYTE_ORDER_MARK = "\ufeff"  # without it Excel takes the file for one in the local 8-bit alphabet
_STARTS_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four: full-width forms


class LogFile:
    """Rows of text, each as long as `COLUMNS`.

    max_bytes: of a file; num_kept: full files that stay beside the one that grows.
    """

    def __init__(self, path: Path, *, max_bytes: int = 5_000_000, num_kept: int = 3) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._num_kept = num_kept

    def append(self, row: Sequence[str]) -> None:
        """Add a row. It is one write, so that two programs may append to the same file."""
        line = _csv_line(row)
        if self._size() + len(line) > self._max_bytes:
            self._put_aside()
        if self._size() == 0:
            self._write_header()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, line if self._ends_with_a_line() else b"\n" + line)
        finally:
            os.close(descriptor)

    def newest(self, count: int) -> list[list[str]]:
        """The last rows, newest first."""
        rows: list[list[str]] = []
        for path in (self._path, *reversed(self._full_files())):
            rows += reversed(list(_read_rows(path)))
            if len(rows) >= count:
                break
        return rows[:count]

    def as_csv(self) -> bytes:
        """All rows, oldest first, as one file for a spreadsheet."""
        lines = [_header()]
        for path in (*self._full_files(), self._path):
            lines += [_csv_line(row) for row in _read_rows(path)]
        return b"".join(lines)

    def _write_header(self) -> None:
        with suppress(FileExistsError):  # another program was faster
            write_atomically(self._path, _header(), replace=self._path.exists())

    def _ends_with_a_line(self) -> bool:
        """False after a power failure in the middle of a write."""
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def _put_aside(self) -> None:
        if not self._path.exists():
            return
        now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%f")
        self._path.rename(self._path.with_name(f"{self._path.stem}-{now}.csv"))
        for old in self._full_files()[: -self._num_kept]:
            old.unlink(missing_ok=True)

    def _full_files(self) -> list[Path]:
        """Oldest first: their names sort by date."""
        return sorted(self._path.parent.glob(f"{self._path.stem}-*.csv"))


def _header() -> bytes:
    return _BYTE_ORDER_MARK.encode() + _csv_line(COLUMNS)


def _csv_line(row: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow([_guarded(_one_line(cell)) for cell in row])
    return text.getvalue().encode("utf-8", "replace")


def _read_rows(path: Path) -> Iterator[list[str]]:
    """The rows below the header; one that is damaged is filled up, not left out."""
    if not path.exists():
        return
    for line in path.read_text("utf-8-sig", errors="replace").splitlines()[1:]:
        cells = [_unguarded(cell) for cell in _cells_of(line)]
        yield (cells + [""] * len(COLUMNS))[: len(COLUMNS)]


def _cells_of(line: str) -> list[str]:
    try:
        return next(csv.reader([line.replace("\0", "")]), [])
    except csv.Error:  # longer than a cell can be: not one of our lines
        return [line[:1000]]


def _one_line(cell: str) -> str:
    """Without line ends and control characters: a row is a line, and a terminal may show it."""
    return "".join(" " if category(character) in ("Cc", "Cs", "Zl", "Zp") else character for character in cell).strip()


def _guarded(cell: str) -> str:
    """With an apostrophe in front of what a spreadsheet would run as a formula."""
    return f"'{cell}" if _may_be_formula(cell) else cell


def _unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _may_be_formula(cell) else cell


def _may_be_formula(cell: str) -> bool:
    """Also of a guarded one, so that a cell which begins with an apostrophe comes back as it was."""
    return cell.lstrip("'").startswith(_STARTS_FORMULA)
