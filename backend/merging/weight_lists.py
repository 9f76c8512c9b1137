"""Weights by block as text: our own entries, other programs' lists of numbers and lines, and names of presets.

Our own entries are `BLOCKS=NUMBER`, with commas or line ends between them; later ones count more:
    BASE=0.5, IN00=0.2, IN04-IN08=0.3, OUT=0.8, M00:self_attention+norm=1, self_attention.q=0.4, *::text=0
Behind the blocks (joined by "+", "*" for all) may follow kinds and streams, each behind a colon.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

from backend.errors import RequestError
from backend.merging.base_reading import BaseReading
from backend.merging.block_layout import BlockLayout, Place
from backend.merging.elemental import elemental_overrides
from backend.merging.layouts import network_blocks, weight_at
from backend.merging.lora_presets import BUILTIN as LORA_PRESETS
from backend.merging.number_lists import BASE, number_weights
from backend.merging.preset_files import NamedNumbers, numbers_of_line
from backend.merging.presets import BUILTIN, preset_weights
from backend.merging.selectors import blocks_named, check_weights, groups_of, is_kind, kinds_named, streams_named
from backend.recipe import HIGHEST, LOWEST, MAX_OVERRIDES, MAX_RECIPE_BYTES, Override, Weights, weights_from

__all__ = ["BaseReading", "list_numbers", "read_weights", "write_weights"]

_FIELD = "weights"
_ANY = ("", "*")
_RANDOM = {"R", "U", "X"}


def read_weights(
    text: str,
    layout: BlockLayout,
    reading: BaseReading = BaseReading.OWN,
    *,
    base: float = 0.0,
    presets: Sequence[NamedNumbers] = (),
) -> Weights:
    """Read a text that somebody wrote or copied.

    Read are our own entries; a list of numbers (see `names_by_length`), perhaps with entries or elemental lines behind
    it; a line `NAME<tab>numbers`; the name of a preset, of `presets` first, and those for LoRAs last; a single number;
    and JSON as recipes have it.
    reading: what lists and presets mean by BASE. base: of what nothing in the text is said of.
    Raises RequestError, which says at which entry the text is wrong.
    """
    if len(text) > MAX_RECIPE_BYTES:
        raise RequestError(_FIELD, f"is {len(text):,} characters long; at most {MAX_RECIPE_BYTES:,} are read")
    text = text.strip()
    if not text:
        raise RequestError(_FIELD, "is empty; write for example IN00=0.2, M00=0.8, OUT=0.3")
    if text.startswith("{"):
        return _json(text, layout)
    if "\t" in text and "\n" not in text:
        line = numbers_of_line(text)
        if line is not None:
            return number_weights(line.numbers, layout, reading, base)
    named = _preset(text, layout, reading, base, presets)
    return named or _entries(text, layout, reading, base)


def write_weights(weights: Weights, layout: BlockLayout) -> str:
    """The text of our own entries that `read_weights` reads as the same weights."""
    groups = {blocks: name for name, blocks in groups_of(layout).items() if len(blocks) > 1}
    return ", ".join(
        [f"{BASE}={weights.base!r}", *(f"{_selector(found, groups)}={found.value!r}" for found in weights.overrides)]
    )


def list_numbers(weights: Weights, layout: BlockLayout) -> tuple[float, ...]:
    """BASE and one number for each block of the network, as other programs take them.

    What is said of kinds, streams and parts of blocks, or of what lies outside of the blocks, is not in them.
    """
    return (weights.base, *(weight_at(weights, Place(block=block)) for block in network_blocks(layout)))


def _json(text: str, layout: BlockLayout) -> Weights:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(_FIELD, f"is no JSON ({str(error)[:100]})") from error
    weights = weights_from(value, _FIELD)
    check_weights(weights, layout)
    return weights


def _preset(
    text: str, layout: BlockLayout, reading: BaseReading, base: float, presets: Sequence[NamedNumbers]
) -> Weights | None:
    own = next((preset for preset in presets if preset.name == text), None)
    if own is not None:
        return number_weights(own.numbers, layout, reading, base)
    found = next((preset for preset in BUILTIN if preset.name == text.upper()), None)
    if found is not None:
        return preset_weights(found, layout, reading)
    for_lora = next((preset for preset in LORA_PRESETS if preset.name == text.upper()), None)
    return None if for_lora is None else number_weights(for_lora.numbers, layout, reading, base)


def _entries(text: str, layout: BlockLayout, reading: BaseReading, base: float) -> Weights:
    entries = [entry.strip() for entry in re.split(r"[,;\n]", text)]
    entries = _trimmed([word for entry in entries for word in (entry.split() if _all_numbers(entry) else [entry])])
    count = next((index for index, entry in enumerate(entries) if not _is_number(entry)), len(entries))
    numbers = [_number(entry, f"number {index}") for index, entry in enumerate(entries[:count], start=1)]
    weights = _of_numbers(numbers, layout, reading, base)
    overrides = list(weights.overrides)
    base = weights.base
    for index, entry in enumerate(entries[count:], start=count + 1):
        where = f'entry {index} ("{entry[:60]}")'
        if entry.count("=") == 1:
            selector, _, value = entry.partition("=")
            if selector.strip().upper() == BASE:
                base = _number(value, where)
            else:
                overrides.append(_override(selector, _number(value, where), layout, where))
        elif entry.count(":") in (2, 3) and "=" not in entry:  # the third stands behind the line's name
            line, _, value = (entry if entry.count(":") == 2 else entry.partition(":")[2]).rpartition(":")
            overrides += elemental_overrides(line, _number(value, where), layout, where)
        elif entry.upper() in _RANDOM:
            raise RequestError(_FIELD, f"{where}: random numbers are not read; write the number that was drawn")
        else:
            raise RequestError(
                _FIELD,
                f"{where} is neither a number, an entry like IN00=0.2, a line like IN05-OUT05:attn:1, nor a preset",
            )
    if len(overrides) > MAX_OVERRIDES:
        raise RequestError(_FIELD, f"comes to {len(overrides)} overrides; at most {MAX_OVERRIDES} are kept")
    return Weights(base=base, overrides=tuple(overrides))


def _of_numbers(numbers: Sequence[float], layout: BlockLayout, reading: BaseReading, base: float) -> Weights:
    """A single number is that of everything."""
    if len(numbers) <= 1:
        return Weights(base=numbers[0] if numbers else base)
    return number_weights(numbers, layout, reading, base)


def _trimmed(entries: list[str]) -> list[str]:
    """Without empty ones: line ends behind commas, and a comma at the end."""
    return [entry for entry in entries if entry]


def _override(selector: str, value: float, layout: BlockLayout, where: str) -> Override:
    parts = [[name for name in re.split(r"[+\s]+", part.strip()) if name not in _ANY] for part in selector.split(":")]
    if len(parts) > 3:
        raise RequestError(_FIELD, f"{where}: at most blocks, kinds and streams stand before the number")
    if len(parts) == 1 and parts[0] and all(is_kind(name, layout) for name in parts[0]):
        parts = [[], parts[0]]
    blocks, kinds, streams = (*parts, [], [])[:3]
    return Override(
        value=value,
        blocks=blocks_named(blocks, layout, where),
        kinds=kinds_named(kinds, layout, where),
        streams=streams_named(streams, layout, where) if streams else (),
    )


def _selector(override: Override, groups: dict[tuple[str, ...], str]) -> str:
    blocks = groups.get(override.blocks, "+".join(override.blocks)) or "*"
    parts = [blocks, "+".join(override.kinds), "+".join(override.streams)]
    while len(parts) > 1 and not parts[-1]:
        parts.pop()
    return ":".join(parts)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _all_numbers(text: str) -> bool:
    return bool(text) and all(map(_is_number, text.split()))


def _number(text: str, where: str) -> float:
    text = text.strip()
    if not _is_number(text) or not math.isfinite(float(text)):
        raise RequestError(_FIELD, f'{where}: "{text[:60]}" is no number')
    value = float(text)
    if not LOWEST <= value <= HIGHEST:
        raise RequestError(_FIELD, f"{where}: {value:g} is outside {LOWEST:g} to {HIGHEST:g}")
    return value
