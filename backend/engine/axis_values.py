"""Values of an axis as people type them: A1111's lists with commas, quotes and ranges."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from enum import Enum

from backend.errors import RequestError

MAX_VALUES = 1000
Value = float | str | bool

_WHOLE = r"([+-]?\s*\d+)"
_NUMBER = r"([+-]?\s*(?:\d+\.?\d*|\.\d+))"
_SWITCHES = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class ValueKind(str, Enum):
    WHOLE = "whole"
    NUMBER = "number"
    SWITCH = "switch"
    NAME = "name"  # one of several, such as a sampler
    TEXT = "text"


def values_of(text: str, kind: ValueKind, where: str) -> tuple[Value, ...]:
    """The values that a text lists.

    They are parted by commas or lines; "a, b" in quotes is one. Among numbers, 1-5 is every whole step, 1-5 (+2) goes
    in steps of two, and 1-10 [5] are five of them. where: what an error calls the axis. Raises RequestError.
    """
    entries = [entry.strip() for entry in _entries(text, where)]
    if kind is not ValueKind.TEXT:
        entries = [entry for entry in entries if entry]
    values: list[Value] = []
    for entry in entries:
        values += _read(entry, kind, where)
        if len(values) > MAX_VALUES:
            raise RequestError(where, f"come to more than {MAX_VALUES} values; write fewer")
    if not values:
        raise RequestError(where, "are missing; write some, with commas between them")
    return tuple(values)


def _entries(text: str, where: str) -> Iterator[str]:
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        for row in csv.reader(lines, skipinitialspace=True, strict=False):
            yield from row
    except csv.Error as error:
        raise RequestError(where, f"cannot be read ({error}); put a value that holds commas into quotes") from error


def _read(entry: str, kind: ValueKind, where: str) -> list[Value]:
    match kind:
        case ValueKind.WHOLE:
            return _numbers(entry, _WHOLE, where, is_whole=True)
        case ValueKind.NUMBER:
            return _numbers(entry, _NUMBER, where, is_whole=False)
        case ValueKind.SWITCH:
            if entry.casefold() not in _SWITCHES:
                raise RequestError(where, f'must hold true or false, not "{entry:.60}"')
            return [_SWITCHES[entry.casefold()]]
        case ValueKind.NAME | ValueKind.TEXT:
            return [entry]


def _numbers(entry: str, number: str, where: str, *, is_whole: bool) -> list[Value]:
    if re.fullmatch(number, entry):
        return [_number(entry, is_whole=is_whole)]
    found = re.fullmatch(rf"{number}\s*-\s*{number}\s*(?:\(\s*{number}\s*\)|\[\s*(\d+)\s*\])?", entry)
    if found is None:
        what = "whole numbers" if is_whole else "numbers"
        raise RequestError(where, f'must hold {what} or ranges such as 1-5, 1-5 (+2) and 1-10 [5], not "{entry:.60}"')
    start, end = (float(_number(found[index], is_whole=is_whole)) for index in (1, 2))
    if found[4] is not None:
        values = _counted(start, end, int(found[4]), entry, where)
    else:
        usual = 1.0 if end >= start else -1.0
        step = usual if found[3] is None else float(_number(found[3], is_whole=is_whole))
        values = _stepped(start, end, step, entry, where)
    # A1111 cuts what lies between whole numbers off, and people compare pictures with it.
    return [int(value) if is_whole else value for value in values]


def _number(text: str, *, is_whole: bool) -> int | float:
    plain = "".join(text.split())
    return int(plain) if is_whole else float(plain)


def _counted(start: float, end: float, count: int, entry: str, where: str) -> list[float]:
    if not 1 <= count <= MAX_VALUES:
        raise RequestError(where, f'"{entry:.60}" asks for {count} values; 1 to {MAX_VALUES} are possible')
    return [round(start + (end - start) * index / max(1, count - 1), 6) for index in range(count)]


def _stepped(start: float, end: float, step: float, entry: str, where: str) -> list[float]:
    count = math.floor((end - start) / step + 1e-9) + 1 if step else 0
    if not 1 <= count <= MAX_VALUES:
        raise RequestError(where, f'"{entry:.60}" comes to no values, or to more than {MAX_VALUES}')
    return [round(start + index * step, 6) for index in range(count)]
