"""Axes over the words of a prompt: search and replace, their order, and parts that are added."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import islice, permutations

from backend.engine.axis_kinds import AxisKind, Change, Chosen, Cost
from backend.engine.axis_values import MAX_VALUES, Value, ValueKind
from backend.errors import RequestError
from backend.request import GenerationRequest

AT_START = "start"
AT_END = "end"
_PROMPTS = ("prompt", "negative_prompt")
_BETWEEN = ", "


def _replaced(request: GenerationRequest, chosen: Chosen) -> GenerationRequest:
    """The first value is what is looked for; it stands for itself."""
    wanted = str(chosen.values[0])
    if not any(wanted in getattr(request, field) for field in _PROMPTS):
        raise RequestError("prompt", f'"{wanted:.100}", the first value, is found in neither prompt')
    changes = {field: getattr(request, field).replace(wanted, str(chosen.value)) for field in _PROMPTS}
    return dataclasses.replace(request, **changes)


def _orders(values: tuple[Value, ...], where: str) -> tuple[Value, ...]:
    """Every order of the parts, each as one text."""
    if len(values) < 2:
        raise RequestError(where, "must hold two parts of the prompt or more")
    found = [_one_text(order) for order in islice(permutations(map(str, values)), MAX_VALUES + 1)]
    if len(found) > MAX_VALUES:
        raise RequestError(where, f"{len(values)} parts have more than {MAX_VALUES} orders; name fewer parts")
    return tuple(found)


def _one_text(parts: Sequence[str]) -> str:
    return ", ".join(f'"{part}"' if "," in part else part for part in parts)


def _ordered(request: GenerationRequest, chosen: Chosen) -> GenerationRequest:
    """The parts take each other's places in the prompt; what stands between them stays."""
    wanted = next(order for order in permutations(map(str, chosen.values)) if _one_text(order) == chosen.value)
    places = sorted((request.prompt.find(part), part) for part in wanted)
    if places[0][0] < 0:
        raise RequestError("prompt", f'"{places[0][1]:.100}" is not found in it')
    pieces: list[str] = []
    end = 0
    for (start, found), part in zip(places, wanted, strict=True):
        if start < end:
            raise RequestError("prompt", f'"{found:.100}" overlaps with another of the parts in it')
        pieces += [request.prompt[end:start], part]
        end = start + len(found)
    return dataclasses.replace(request, prompt="".join(pieces) + request.prompt[end:])


def _with_parts(field: str) -> Change:
    def change(request: GenerationRequest, chosen: Chosen) -> GenerationRequest:
        before, added = getattr(request, field), str(chosen.value)
        parts = [added, before] if chosen.target == AT_START else [before, added]
        return dataclasses.replace(request, **{field: _BETWEEN.join(part for part in parts if part)})

    return change


BUILTIN = (
    AxisKind(
        name="prompt_replace",
        label="Prompt S/R",
        values=ValueKind.TEXT,
        cost=Cost.PROMPT,
        change=_replaced,
        group="Prompt",
    ),
    AxisKind(
        name="prompt_order",
        label="Prompt order",
        values=ValueKind.TEXT,
        cost=Cost.PROMPT,
        change=_ordered,
        group="Prompt",
        expand=_orders,
    ),
    AxisKind(
        name="prompt_parts",
        label="Prompt parts",
        values=ValueKind.TEXT,
        cost=Cost.PROMPT,
        change=_with_parts("prompt"),
        group="Prompt",
        target="start or end",
    ),
    AxisKind(
        name="negative_parts",
        label="Negative prompt parts",
        values=ValueKind.TEXT,
        cost=Cost.PROMPT,
        change=_with_parts("negative_prompt"),
        group="Prompt",
        target="start or end",
    ),
)
