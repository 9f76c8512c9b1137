"""Presets of users as text, in supermerger's form: a line each, `NAME<tab>0.0,1.0,...`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from backend.errors import RequestError
from backend.recipe import HIGHEST, LOWEST

_FIELD = "presets"
_HEADER = "preset_name"  # of the first line of some files
_LONGEST_NAME = 100
_MOST_NUMBERS = 1000


@dataclass(frozen=True, kw_only=True)
class NamedNumbers:
    """A preset of a user. numbers: as many as the lists of one family have (see `names_by_length`)."""

    name: str
    numbers: tuple[float, ...]


def read_presets(text: str) -> tuple[NamedNumbers, ...]:
    """Read a file of presets; of two of one name the later counts. Raises RequestError, which names the line."""
    found: dict[str, NamedNumbers] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith((_HEADER, "#")):
            continue
        preset = _preset(line, f"line {number}")
        found[preset.name] = preset
    return tuple(found.values())


def write_presets(presets: Iterable[NamedNumbers]) -> str:
    """The text that `read_presets` reads as the same. Raises RequestError for a name that would not fit a line."""
    lines: list[str] = []
    for preset in presets:
        line = f"{preset.name}\t{','.join(map(repr, preset.numbers))}"
        if len(line.splitlines()) != 1 or _preset(line, "preset") != preset or line.startswith((_HEADER, "#")):
            raise RequestError(_FIELD, f'"{preset.name[:60]}" cannot be the name of a preset')
        lines.append(line + "\n")
    return "".join(lines)


def numbers_of_line(line: str) -> NamedNumbers | None:
    """A preset copied out of a file, or None where the text is none. Raises RequestError for damaged numbers."""
    name, tab, numbers = line.partition("\t")
    is_one = bool(tab and name.strip()) and "=" not in line and ":" not in numbers
    return _preset(line, "preset") if is_one and not _is_number(name) else None


def _preset(line: str, where: str) -> NamedNumbers:
    name, tab, numbers = line.partition("\t")
    name = name.strip()
    if not tab or not name or len(name) > _LONGEST_NAME:
        raise RequestError(_FIELD, f"{where}: must be a name, a tab, and numbers with commas between them")
    words = [word.strip() for word in numbers.split(",")]
    if len(words) > _MOST_NUMBERS:
        raise RequestError(_FIELD, f"{where}: has {len(words)} numbers; at most {_MOST_NUMBERS} are read")
    return NamedNumbers(
        name=name, numbers=tuple(_number(word, f"{where}, number {index}") for index, word in enumerate(words, start=1))
    )


def _number(word: str, where: str) -> float:
    if not _is_number(word) or not math.isfinite(float(word)) or not LOWEST <= float(word) <= HIGHEST:
        raise RequestError(_FIELD, f'{where}: "{word[:60]}" is no number from {LOWEST:g} to {HIGHEST:g}')
    return float(word)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
