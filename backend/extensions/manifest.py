"""What an extension says about itself in `extension.toml`, read without running any of its code."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from backend.errors import ExtensionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]  # from requirements.txt on Python 3.10 only

API_VERSION = 1
MANIFEST_FILE = "extension.toml"
UI_FILE = "ui.py"
NEEDS = ("net", "fs", "pip")

_MAX_BYTES = 65_536
_ID = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MAX_ID = 60


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The fields of an `extension.toml`.

    id: lower case letters, digits and single hyphens; the same on every machine, whatever the folder is called.
    api: version of the extension interface that it was written for.
    needs: what it does beyond registering values: "net" opens connections, "fs" writes outside its data folder,
        "pip" imports packages that Emulsion does not bring. A statement for the user; nothing enforces it.
    after: ids of the extensions that it builds on. They are set up before it, and it is not when one of them fails.
    ui: whether the folder has a `ui.py`.
    folder: where it lies; not a field of the file.
    """

    id: str
    name: str
    version: str
    description: str
    api: int
    author: str = ""
    licence: str = ""
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    ui: bool = False
    folder: Path


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest in `folder`. Raises ExtensionError, which names the file and the field."""
    values = _parse(folder)
    _check_fields(folder, values)
    checked = {field: _FIELDS[field](folder, field, value) for field, value in values.items()}
    if checked["id"] in checked.get("after", ()):
        raise _wrong(folder, "after", "names the extension itself")
    return Manifest(**checked, ui=(folder / UI_FILE).is_file(), folder=folder)


def extension_folders(parent: Path) -> list[Path]:
    """The folders in `parent` that should hold an extension each, by name; hidden ones and caches are passed over."""
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))


def _parse(folder: Path) -> Mapping[str, Any]:
    try:
        with (folder / MANIFEST_FILE).open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ExtensionError(
            folder.name, f"its folder holds no {MANIFEST_FILE}; add one, or move the folder elsewhere"
        ) from None
    except OSError as error:
        raise ExtensionError(folder.name, f"{MANIFEST_FILE} cannot be read: {error.strerror or error}") from error
    if len(data) > _MAX_BYTES:
        raise ExtensionError(folder.name, f"{MANIFEST_FILE} is larger than {_MAX_BYTES:,} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number or a nesting without end
        raise ExtensionError(folder.name, f"{MANIFEST_FILE} is no valid TOML: {error}") from error


def _check_fields(folder: Path, values: Mapping[str, Any]) -> None:
    for field in values:
        if field not in _FIELDS:
            raise _wrong(folder, field[:60], f"is not a field of a manifest. Known: {', '.join(_FIELDS)}")
    for field in _REQUIRED:
        if field not in values:
            raise _wrong(folder, field, "is missing")


def _wrong(folder: Path, field: str, problem: str) -> ExtensionError:
    return ExtensionError(folder.name, f'{MANIFEST_FILE}: "{field}" {problem}')


def _identifier(folder: Path, field: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_ID or not _ID.fullmatch(value):
        raise _wrong(
            folder,
            field,
            f"must be lower case letters, digits and single hyphens, as my-sampler, not {_shown(value)}",
        )
    return value


def _line(max_length: int, *, may_be_empty: bool = False) -> Callable[[Path, str, Any], str]:
    def check(folder: Path, field: str, value: Any) -> str:
        if not isinstance(value, str):
            raise _wrong(folder, field, f"must be text, not {_shown(value)}")
        if len(value) > max_length or not value.isprintable() or not (value.strip() or may_be_empty):
            raise _wrong(folder, field, f"must be one line of at most {max_length} characters, not {_shown(value)}")
        return value.strip()

    return check


def _api_version(folder: Path, field: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong(folder, field, f"must be a whole number from 1, not {_shown(value)}")
    if value > API_VERSION:
        raise _wrong(
            folder, field, f"is {value}, but this Emulsion knows version {API_VERSION}; install a newer Emulsion"
        )
    return value


def _needs(folder: Path, field: str, value: Any) -> tuple[str, ...]:
    names = _texts(folder, field, value)
    for name in names:
        if name not in NEEDS:
            raise _wrong(folder, field, f"may hold {', '.join(NEEDS)}, not {_shown(name)}")
    return names


def _after(folder: Path, field: str, value: Any) -> tuple[str, ...]:
    return tuple(_identifier(folder, field, name) for name in _texts(folder, field, value))


def _texts(folder: Path, field: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _wrong(folder, field, f"must be a list of texts, not {_shown(value)}")
    texts: list[str] = []
    for text in cast("list[Any]", value):
        if not isinstance(text, str):
            raise _wrong(folder, field, f"must be a list of texts, but holds {_shown(text)}")
        if text in texts:
            raise _wrong(folder, field, f"holds {_shown(text)} twice")
        texts.append(text)
    return tuple(texts)


def _shown(value: Any) -> str:
    """A value of the file as it can stand in a message: short, and without control characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


_REQUIRED = ("id", "name", "version", "description", "api")
_FIELDS: Mapping[str, Callable[[Path, str, Any], Any]] = {
    "id": _identifier,
    "name": _line(60),
    "version": _line(40),
    "description": _line(300),
    "api": _api_version,
    "author": _line(100, may_be_empty=True),
    "licence": _line(100, may_be_empty=True),
    "needs": _needs,
    "after": _after,
}
