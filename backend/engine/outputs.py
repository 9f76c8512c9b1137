"""Where finished pictures go."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from backend.errors import DiskFull, NotWritable, OutputError
from backend.images.png_text import encode_png
from backend.memory.byte_sizes import as_text
from backend.pipeline.generate import Pixels
from backend.weights.atomic import sweep_parts, told_as_output_errors, write_atomically

_ROOM_NEEDED = 64 * 2**20
_NUMBERED = re.compile(r"(\d{5,})-")


class Outputs:
    """Numbered PNG files in a folder for each day."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next: dict[Path, int] = {}
        for day in folder.glob("*-*-*/"):
            sweep_parts(day)

    def check(self) -> None:
        """See whether pictures can be written, before time is spent on them. Raises as `save` does."""
        with told_as_output_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self._folder, os.W_OK):
            raise NotWritable(
                f"The folder {self._folder} refuses new files. Change its permissions, or choose another folder with "
                "--output-dir."
            )
        if (free := shutil.disk_usage(self._folder).free) < _ROOM_NEEDED:
            raise DiskFull(
                f"The disk of {self._folder} has {as_text(free)} free, which is too little for pictures "
                f"({as_text(_ROOM_NEEDED)}). Free some space, or choose another folder with --output-dir."
            )

    def save(self, pixels: Pixels, seed: int, texts: Mapping[str, str]) -> Path:
        """Write a picture [H, W, 3] or [H, W, 4] with its texts as the day's next one; complete, or not at all.

        A picture that the folder refuses is kept in the system's temporary folder, and the error names it.
        Raises DiskFull, NotWritable or OutputError.
        """
        data = encode_png(pixels, texts)
        try:
            return self._write_numbered(data, seed)
        except OutputError as error:
            raise type(error)(f"{error} {_rescued(data, seed)}") from error

    def save_beside(self, path: Path, kind: str, pixels: Pixels, texts: Mapping[str, str]) -> Path:
        """Write a picture that belongs to a saved one, under its name with `kind` behind. Raises OutputError."""
        beside = path.with_stem(f"{path.stem}-{kind}")
        write_atomically(beside, encode_png(pixels, texts))
        return beside

    def _write_numbered(self, data: bytes, seed: int) -> Path:
        folder = self._folder / date.today().isoformat()
        number = self._next.get(folder) or _last_number(folder) + 1
        while True:
            path = folder / f"{number:05}-{seed}.png"
            try:
                write_atomically(path, data, replace=False)
            except FileExistsError:  # another program took the number
                number += 1
                continue
            self._next[folder] = number + 1
            return path


def _rescued(data: bytes, seed: int) -> str:
    """Keep a picture that cost minutes where there may still be room; returns what to tell about it."""
    path = Path(tempfile.gettempdir()) / f"emulsion-{seed}-{os.getpid()}-{time.time_ns()}.png"
    try:
        write_atomically(path, data)
    except OutputError:
        return "The picture could not be kept anywhere else either."
    return f"The picture was kept as {path}."


def _last_number(folder: Path) -> int:
    if not folder.is_dir():
        return 0
    with told_as_output_errors(folder):
        numbers = [int(match[1]) for path in folder.iterdir() if (match := _NUMBERED.match(path.name))]
    return max(numbers, default=0)
