"""Factors by block for a LoRA, as sd-webui-lora-block-weight writes them: lists, presets, drawn numbers, elements."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from backend.errors import RequestError
from backend.merging.block_layout import BlockLayout
from backend.merging.layouts import layout_of, network_blocks
from backend.merging.lora_presets import BUILTIN as PRESETS
from backend.merging.number_lists import BASE, names_by_length
from backend.merging.weight_lists import read_weights
from backend.recipe import Weights

ELEMENTAL_PRESETS: Mapping[str, str] = MappingProxyType(
    {
        "ATTNDEEPON": "IN05-OUT05:attn:1",
        "ATTNDEEPOFF": "IN05-OUT05:attn:0",
        "PROJDEEPOFF": "IN05-OUT05:proj:0",
        "XYZ": "::1",
    }
)
_NONE: Mapping[str, str] = MappingProxyType({})
_SEPARATORS = re.compile(r"[,;\n]")
_X = re.compile(r"X([+-]\d*\.?\d+)?")
_LIKE_X = re.compile(r"X[^A-Z_=:]")
_LIST_LENGTHS = (12, 17, 20, 26)  # for U-Nets; which blocks they name does not depend on the model


def block_weights(
    text: str,
    elemental: str,
    layout: BlockLayout,
    *,
    x: float = 1.0,
    drawn_from: str = "",
    presets: Mapping[str, str] = _NONE,
    elemental_presets: Mapping[str, str] = _NONE,
) -> Weights:
    """What the strength of a LoRA is multiplied by, for every weight of a model. Both texts may be "".

    text: the name of a preset, or a number for each block, perhaps with our own entries behind (see `read_weights`).
    BASE is for what lies outside of the blocks, text encoders above all; blocks that a list does not name get 0.
    Numbers may be R (drawn from 0 to 1), U (from -0.5 to 1.5) and X (`x`, X+0.1, X-0.1).
    elemental: the name of a preset, or lines like IN05-OUT05:attn:0, whose numbers take the place of the block's.
    drawn_from: equal texts draw equal numbers; "" for `text`. presets, elemental_presets: of the user, before ours.
    Raises RequestError, which says at which entry a text is wrong.
    """
    draw = random.Random(drawn_from or text)
    entries = _entries(text, presets)
    numbers: list[float] = []
    for entry in entries:
        number = _number(entry, x, draw)
        if number is None:
            break
        numbers.append(number)
    others = [*entries[len(numbers) :], *_lines(elemental, elemental_presets)]
    if not numbers and not others:
        return Weights(base=1.0)
    return read_weights(", ".join([*map(repr, _placed(numbers, layout)), *others]), layout, base=1.0)


def _entries(text: str, presets: Mapping[str, str]) -> list[str]:
    entries = _split(text)
    if not entries:
        return []
    name, *others = entries
    if name in presets:
        return [*_split(presets[name]), *others]
    found = next((preset for preset in PRESETS if preset.name == name.upper()), None)
    return entries if found is None else [*map(repr, found.numbers), *others]


def _lines(elemental: str, presets: Mapping[str, str]) -> list[str]:
    name = elemental.strip()
    if name and ":" not in name:
        text = presets.get(name, ELEMENTAL_PRESETS.get(name.upper()))
        if text is None:
            known = ", ".join(dict.fromkeys([*presets, *ELEMENTAL_PRESETS]))
            raise RequestError("elemental", f'"{name:.60}" is no preset of elements. Known: {known}')
        return _split(text)
    return _split(elemental)


def _split(text: str) -> list[str]:
    return [entry.strip() for entry in _SEPARATORS.split(text) if entry.strip()]


def _number(entry: str, x: float, draw: random.Random) -> float | None:
    """None for what is no number. Raises RequestError for what was meant to be one."""
    upper = entry.upper()
    if upper == "R":
        return round(draw.random(), 3)
    if upper == "U":
        return round(draw.uniform(-0.5, 1.5), 3)
    if (found := _X.fullmatch(upper)) is not None:
        return x + float(found[1] or 0)
    if _LIKE_X.match(upper) is not None:
        raise RequestError("weights", f'"{entry:.60}" must be X, or like X+0.1 or X-0.1')
    try:
        return float(entry)
    except ValueError:
        return None


def _placed(numbers: Sequence[float], layout: BlockLayout) -> Sequence[float]:
    """A list for U-Nets as one for this one: blocks have the number that stands under their name, or 0."""
    if len(numbers) not in _LIST_LENGTHS or not any(block.group == "IN" for block in layout.blocks):
        return numbers
    values = dict(zip(names_by_length(layout_of("sd1"))[len(numbers)], numbers, strict=True))
    return [values[BASE], *(values.get(block, 0.0) for block in network_blocks(layout))]
