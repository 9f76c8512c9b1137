"""Values of an infotext: how numbers are written, sizes are read and long texts are shown."""

from __future__ import annotations

import re

_HASH_BEHIND_NAME = re.compile(r" ?\[[0-9a-fA-F]{6,64}\]$")


def number_text(value: float) -> str:
    """As short as other programs write it, or as long as it must be to be read back."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def split_size(value: str) -> tuple[str, str] | None:
    """The two numbers in "512x768"."""
    width, cross, height = value.partition("x")
    return (width, height) if cross and width.isdecimal() and height.isdecimal() else None


def without_hash(name: str) -> str:
    """A checkpoint's name without the hash that A1111 writes behind that of a second one."""
    return _HASH_BEHIND_NAME.sub("", name)


def shown(value: str) -> str:
    """For a notice."""
    return value if len(value) <= 60 else f"{value[:60]}..."
