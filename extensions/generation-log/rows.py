"""What the table says about a picture."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from backend.extensions.api import ImageSaved, Infotext, read_infotext

_FROM_INFOTEXT: dict[str, Callable[[Infotext], str]] = {
    "size": lambda infotext: infotext.parameters.get("Size", ""),
    "model": lambda infotext: infotext.parameters.get("Model", ""),
    "sampler": lambda infotext: infotext.parameters.get("Sampler", ""),
    "schedule": lambda infotext: infotext.parameters.get("Schedule type", ""),
    "steps": lambda infotext: infotext.parameters.get("Steps", ""),
    "guidance": lambda infotext: infotext.parameters.get("CFG scale", ""),
    "prompt": lambda infotext: infotext.prompt,
    "negative prompt": lambda infotext: infotext.negative_prompt,
}
COLUMNS = ("time", "file", "seed", *_FROM_INFOTEXT)


def row_for(event: ImageSaved, *, output_dir: Path, time: datetime) -> list[str]:
    """The values of `COLUMNS`; the file is named from the output folder on, where it lies in it."""
    infotext = read_infotext(event.infotext)
    is_inside = event.path.is_relative_to(output_dir)
    file = event.path.relative_to(output_dir) if is_inside else event.path
    return [
        time.isoformat(sep=" ", timespec="seconds"),
        file.as_posix(),
        str(event.seed),
        *(value(infotext) for value in _FROM_INFOTEXT.values()),
    ]
