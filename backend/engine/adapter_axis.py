"""An axis over the strength of one LoRA: a row, or a tag of the prompt, by its name."""

from __future__ import annotations

import dataclasses
import re

from backend.adapter_row import AdapterRow
from backend.engine.axis_kinds import AxisKind, Chosen, Cost
from backend.engine.axis_values import ValueKind
from backend.errors import RequestError
from backend.recipe import HIGHEST, LOWEST
from backend.request import GenerationRequest
from backend.text.network_tags import read_tags

_NAMED_STRENGTH = re.compile(r"(?:te|unet)=")


def _with_strength(request: GenerationRequest, chosen: Chosen) -> GenerationRequest:
    """Rows and tags of this name, both strengths; curves over the steps go. Raises RequestError."""
    strength = float(chosen.value)
    if not LOWEST <= strength <= HIGHEST:
        raise RequestError("adapters", f"strength {strength:g} is outside of {LOWEST:g} to {HIGHEST:g}")
    wanted = chosen.target.casefold()
    rows = tuple(_row(row, strength) if _is_called(row.use.file.name, wanted) else row for row in request.adapters)
    prompt = request.prompt
    for tag in read_tags(prompt).tags:
        if tag.kind == "lora" and _is_called(tag.name, wanted):
            prompt = prompt.replace(tag.text, _tag(tag.text, strength))
    if rows == request.adapters and prompt == request.prompt and not _is_there(request, wanted):
        found = [row.use.file.name for row in request.adapters] + [tag.name for tag in read_tags(prompt).tags]
        known = ", ".join(found) or "none"
        raise RequestError("target", f'there is no LoRA named "{chosen.target:.100}" in this request. It has: {known}')
    return dataclasses.replace(request, adapters=rows, prompt=prompt)


def _is_called(name: str, wanted: str) -> bool:
    return wanted in (name.casefold(), name.casefold().rpartition("/")[2])


def _is_there(request: GenerationRequest, wanted: str) -> bool:
    """Also where the value is the one that it has anyway."""
    names = [row.use.file.name for row in request.adapters] + [tag.name for tag in read_tags(request.prompt).tags]
    return any(_is_called(name, wanted) for name in names)


def _row(row: AdapterRow, strength: float) -> AdapterRow:
    return AdapterRow(use=dataclasses.replace(row.use, strength=strength, text_encoder_strength=None))


def _tag(text: str, strength: float) -> str:
    """<lora:name:0.5:lbw=MIDD> with another strength; named arguments for blocks and steps stay."""
    kind, name, *arguments = text[1:-1].split(":")
    kept = [one for one in arguments if "=" in one and not _NAMED_STRENGTH.match(one.strip())]
    return "<" + ":".join([kind, name, f"{strength:g}", *kept]) + ">"


BUILTIN = (
    AxisKind(
        name="adapter",
        label="LoRA weight",
        values=ValueKind.NUMBER,
        cost=Cost.ADAPTERS,
        change=_with_strength,
        group="LoRA",
        target="Name of the LoRA",
        needs_target=True,
    ),
)
