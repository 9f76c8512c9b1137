"""Prompts from a file or a text box: one job for each line, with A1111's flags."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator

from backend.engine.axis_kinds import AxisKind, Chosen, Cost, field_kinds, with_field
from backend.engine.axis_values import Value, ValueKind, values_of
from backend.errors import RequestError
from backend.request import RANDOM_SEED, GenerationRequest

_FLAGS = {
    "cfg_scale": "guidance_scale",
    "sampler_name": "sampler",
    "sampler_index": "sampler",
    "scheduler": "schedule",
    "sd_model": "checkpoint",
    "n_iter": "batch_count",
    "denoising_strength": "init.denoising_strength",
}
_COUNTS = frozenset({"batch_size", "batch_count"})
_OF_FILES_ONLY = frozenset(
    {"outpath_samples", "outpath_grids", "prompt_for_display", "do_not_save_samples", "do_not_save_grid"}
)  # where A1111 writes to, which is settled here
_SWITCHES_WITHOUT_VALUE = frozenset({"do_not_save_samples", "do_not_save_grid"})


def lines_of(text: str) -> tuple[str, ...]:
    """What is asked for, line by line, without the empty ones."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def with_line(request: GenerationRequest, line: str) -> GenerationRequest:
    """The request as one line changes it.

    A line that begins with "--" has flags: --prompt "a cat" --seed 5 --steps 20, in A1111's names or those of fields.
    Any other line is a prompt. Raises RequestError, which names the flag.
    """
    if not line.startswith("--"):
        return dataclasses.replace(request, prompt=line)
    kinds = {kind.name: kind.values for kind in field_kinds()}
    for flag, text in _flags(line):
        if flag in _OF_FILES_ONLY:
            continue
        name = _FLAGS.get(flag, flag)
        if name not in kinds and name not in _COUNTS:
            known = ", ".join(sorted([*_FLAGS, *_COUNTS, *(kind for kind in kinds if "." not in kind)]))
            raise RequestError(f"--{flag:.60}", f"is not known here. Known: {known}, and fields such as hires.scale")
        request = with_field(request, name, _value(flag, text, kinds.get(name, ValueKind.WHOLE)))
    return request


def _flags(line: str) -> Iterator[tuple[str, str]]:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise RequestError("line", f"cannot be read ({error}); close the quotes") from error
    at = 0
    while at < len(words):
        flag = words[at].removeprefix("--")
        if not words[at].startswith("--"):
            raise RequestError("line", f'"{words[at]:.60}" belongs to no flag; put values with spaces into quotes')
        at += 1
        if flag in _SWITCHES_WITHOUT_VALUE:
            yield flag, ""
            continue
        if at == len(words):
            raise RequestError(f"--{flag:.60}", "has no value")
        yield flag, words[at]
        at += 1


def _value(flag: str, text: str, kind: ValueKind) -> Value:
    if kind in (ValueKind.NAME, ValueKind.TEXT):
        return text
    if kind is ValueKind.WHOLE and text.strip() == str(RANDOM_SEED):
        return RANDOM_SEED
    values = values_of(text, kind, f"--{flag}")
    if len(values) != 1:
        raise RequestError(f"--{flag}", f'takes one value, not "{text:.60}"')
    return values[0]


def _changed(request: GenerationRequest, chosen: Chosen) -> GenerationRequest:
    line = str(chosen.value)
    changed = with_line(request, line)
    before = request.prompt
    if changed.prompt == before or chosen.target not in ("start", "end"):
        return changed
    parts = [changed.prompt, before] if chosen.target == "start" else [before, changed.prompt]
    return dataclasses.replace(changed, prompt=", ".join(part for part in parts if part))


BUILTIN = (
    AxisKind(
        name="line",
        label="Line",
        values=ValueKind.TEXT,
        cost=Cost.PROMPT,
        change=_changed,
        group="Prompt",
        target="start or end: of the prompt, where the line's own is put; else it takes its place",
    ),
)
