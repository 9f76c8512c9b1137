"""An axis over sizes: 512x768."""

from __future__ import annotations

import dataclasses
import re

from backend.engine.axis_kinds import AxisKind, Chosen, Cost
from backend.engine.axis_values import ValueKind
from backend.errors import RequestError
from backend.request import GenerationRequest

_SIZE = re.compile(r"\s*(\d{1,6})\s*x\s*(\d{1,6})\s*", re.IGNORECASE)


def _with_size(request: GenerationRequest, chosen: Chosen) -> GenerationRequest:
    found = _SIZE.fullmatch(str(chosen.value))
    if found is None:
        raise RequestError("size", f'must be like 512x768, not "{chosen.value:.60}"')
    return dataclasses.replace(request, width=int(found[1]), height=int(found[2]))


BUILTIN = (
    AxisKind(
        name="size",
        label="Size",
        values=ValueKind.TEXT,
        cost=Cost.NOTHING,
        change=_with_size,
        group="Picture",
    ),
)
