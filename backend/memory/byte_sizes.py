"""Numbers of bytes as people write and read them."""

from __future__ import annotations

import re

from backend.errors import RequestError

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """ "3G", "512 MiB" or "1.5gb" as bytes. Raises RequestError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise RequestError("memory_budget", f'"{text[:40]}" is no size; write for example 3G or 800M')
    size = int(float(match[1]) * _UNITS[match[2].lower()])
    if size <= 0:
        raise RequestError("memory_budget", "must be more than nothing")
    return size


def as_text(size: int) -> str:
    """Bytes for people: "1.7 GiB"."""
    if size >= 2**30:
        return f"{size / 2**30:.1f} GiB"
    return f"{size / 2**20:.0f} MiB"
