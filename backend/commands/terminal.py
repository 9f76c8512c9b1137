"""Texts of other people's files, made safe for a terminal."""

from __future__ import annotations

import re

# Control characters, among them the escape that starts a terminal's commands, and marks that turn text around.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")


def as_line(text: str, limit: int = 300) -> str:
    """`text` as one line that moves no cursor, cut to `limit` characters."""
    line = " ".join(_UNSAFE.sub(" ", text).split())
    return line if len(line) <= limit else f"{line[: limit - 4]} ..."
