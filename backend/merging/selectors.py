"""Blocks, kinds and streams as people name them: single ones, groups ("OUT") and ranges ("IN04-IN08")."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from backend.errors import RequestError
from backend.merging.block_layout import BlockLayout
from backend.merging.kinds import fits
from backend.merging.layouts import network_blocks
from backend.recipe import Weights

_RANGE = re.compile(r"([A-Za-z]\w*)-([A-Za-z]\w*)")


def blocks_named(names: Iterable[str], layout: BlockLayout, where: str) -> tuple[str, ...]:
    """The blocks that `names` stand for, in any case of letters. where: the place in the text, for RequestError."""
    found: list[str] = []
    for name in names:
        match = _RANGE.fullmatch(name)
        found += [_block(name, layout, where)] if match is None else _range(match[1], match[2], layout, where)
    return tuple(dict.fromkeys(block for entry in found for block in _members(entry, layout)))


def groups_of(layout: BlockLayout) -> dict[str, tuple[str, ...]]:
    """The blocks of each group."""
    groups: dict[str, tuple[str, ...]] = {}
    for block in layout.blocks:
        groups[block.group] = (*groups.get(block.group, ()), block.name)
    return groups


def kinds_named(names: Iterable[str], layout: BlockLayout, where: str) -> tuple[str, ...]:
    return tuple(_known(name.lower(), tuple(layout.kinds), "kind of layer", where) for name in names)


def streams_named(names: Iterable[str], layout: BlockLayout, where: str) -> tuple[str, ...]:
    known = tuple(layout.streams)
    if not known:
        raise RequestError("weights", f"{where}: this model has no separate streams for picture and text")
    return tuple(_known(name.lower(), known, "stream", where) for name in names)


def is_kind(name: str, layout: BlockLayout) -> bool:
    return name.lower() in layout.kinds


def check_weights(weights: Weights, layout: BlockLayout, where: str = "weights") -> None:
    """Raises RequestError when overrides name what the layout does not have, as those for another family do."""
    for number, override in enumerate(weights.overrides, start=1):
        place = f"{where}, override {number}"
        for block in override.blocks:
            if _members(_block(block, layout, place), layout) != (block,):
                raise RequestError("weights", f'{place}: "{block}" is no block; groups must be spelt out')
        for kind in override.kinds:
            _known(kind, tuple(layout.kinds), "kind of layer", place)
        if override.streams:
            streams_named(override.streams, layout, place)


def _block(name: str, layout: BlockLayout, where: str) -> str:
    """A block, perhaps with a part ("IN04.1.0"), or a group."""
    blocks = tuple(block.name for block in layout.blocks)
    base, point, part = name.upper().partition(".")
    has_part = point and part and all(number.isdecimal() for number in part.split("."))
    if has_part and base in blocks and base in network_blocks(layout):
        return f"{base}.{part}"
    return _known(name.upper(), (*blocks, *groups_of(layout)), "block", where)


def _members(entry: str, layout: BlockLayout) -> Sequence[str]:
    is_block = any(fits(block.name, entry) for block in layout.blocks)
    return (entry,) if is_block else groups_of(layout)[entry]


def _range(first: str, last: str, layout: BlockLayout, where: str) -> list[str]:
    blocks = network_blocks(layout)
    begin, end = sorted(blocks.index(_known(name.upper(), blocks, "block", where)) for name in (first, last))
    return list(blocks[begin : end + 1])


def _known(name: str, known: Sequence[str], what: str, where: str) -> str:
    if name in known:
        return name
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}"
    raise RequestError("weights", f'{where}: there is no {what} "{name[:60]}"; {hint}')
