"""Rows of adapters: as the page keeps them, with those that are switched off, and as a request has them.

A row of the page is {"is_on": whether it is sent, "elemental": finer block weights as they were typed, "adapter": JSON
values of a request's row}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from backend.adapter_row import AdapterRow, name_hashes_from, row_mapping, rows_from
from backend.errors import RequestError


def sent_rows(value: Any) -> list[Any]:
    """The JSON values that a request gets: of the rows that are on. Raises RequestError."""
    if not isinstance(value, list):
        raise RequestError("adapters", "must be a list")
    rows = cast("list[Any]", value)
    if not all(isinstance(row, Mapping) and "adapter" in row for row in rows):
        raise RequestError("adapters", 'must be a list of objects with "adapter"')
    return [row["adapter"] for row in rows if row.get("is_on", True)]


def shown_rows(rows: Sequence[AdapterRow]) -> list[dict[str, Any]]:
    """Rows of a request as the page has them."""
    return [{"is_on": True, "elemental": "", "adapter": row_mapping(row)} for row in rows]


def kept_rows(value: Any) -> list[dict[str, Any]]:
    """Of what a browser kept, the rows that a request could have."""
    return [row for row in cast("list[Any]", value) if _is_row(row)] if isinstance(value, list) else []


def kept_hashes(value: Any) -> dict[str, str]:
    """Which files the names of tags mean, as far as a browser kept it well."""
    try:
        return {known.name: known.hash for known in name_hashes_from(value, "name_hashes")}
    except RequestError:
        return {}


def _is_row(value: Any) -> bool:
    if not isinstance(value, Mapping) or "adapter" not in value:
        return False
    try:
        rows_from([cast("Mapping[str, Any]", value)["adapter"]])
    except RequestError:
        return False
    return True
