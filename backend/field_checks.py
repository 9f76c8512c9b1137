"""What fields of requests and of the values in them may hold; every refusal names the field."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar, cast

from backend.errors import RequestError

MAX_PROMPT_BYTES = 65_536
_SHA256 = re.compile(r"[0-9a-f]{64}")
Kind = TypeVar("Kind", bound=Enum)
Value = TypeVar("Value")


def check_prompt(field: str, value: Any) -> None:
    if not isinstance(value, str):
        raise RequestError(field, f"must be text, not {type(value).__name__}")
    if (size := len(value.encode("utf-8", "surrogatepass"))) > MAX_PROMPT_BYTES:
        raise RequestError(field, f"is {size:,} bytes long; at most {MAX_PROMPT_BYTES:,} are allowed. Shorten it")


def check_name(field: str, value: Any, *, optional: bool = True) -> None:
    if not isinstance(value, str) and not (optional and value is None):
        raise RequestError(field, f"must be a name, not {type(value).__name__}")


def check_bool(field: str, value: Any, *, optional: bool = True) -> None:
    if not isinstance(value, bool) and not (optional and value is None):
        raise RequestError(field, f"must be true or false, not {value!r:.60}")


def check_int(field: str, value: Any, low: int, high: int, *, optional: bool = True) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise RequestError(field, f"must be a whole number, not {value!r:.60}")
    if not low <= value <= high:
        raise RequestError(field, f"{value} is outside {low} to {high}")


def check_number(field: str, value: Any, low: float, high: float, *, optional: bool = True) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise RequestError(field, f"must be a number, not {value!r:.60}")
    if not low <= value <= high:
        raise RequestError(field, f"{value} is outside {low:g} to {high:g}")


def check_picture(field: str, value: Any) -> None:
    """The name of a stored picture: the SHA-256 of its file, 64 hex digits."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise RequestError(field, f"must be the SHA-256 of an uploaded picture, 64 hex digits, not {value!r:.80}")


def checked_kind(field: str, kind: type[Kind], value: Any) -> Kind:
    """A member of `kind`; JSON gives its text."""
    known: dict[str, Kind] = {str(member.value): member for member in kind}
    text = value.value if isinstance(value, Enum) else value
    if not isinstance(text, str) or text not in known:
        raise RequestError(field, f"must be one of {', '.join(known)}, not {value!r:.60}")
    return known[text]


def checked_value(field: str, kind: type[Value], value: Any) -> Value:
    """A value of the dataclass `kind`; JSON gives an object. What is wrong inside is named "field.inner"."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise RequestError(field, f"must be an object, not {type(value).__name__}")
    known = {one.name for one in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    for name in value:
        if name not in known:
            raise RequestError(f"{field}.{str(name)[:60]}", f"is not known. Known: {', '.join(sorted(known))}")
    try:
        return kind(**value)
    except RequestError as error:
        raise RequestError(f"{field}.{error.field}", error.problem) from error
    except TypeError as error:  # a field without a default is missing
        raise RequestError(field, f"is not complete: {error}") from error


def plain_values(value: Any) -> Any:
    """A frozen value as JSON has it, enums as their texts; `checked_value` gives the same value back."""
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_values(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [plain_values(one) for one in cast("Sequence[Any]", value)]
    return value
