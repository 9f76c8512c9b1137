"""Weights by block that have a name: those that supermerger and SD.Next ship, for any number of blocks.

Most are curves over the blocks from the first to the last; a few are steps, of which only a table is known. The tables
are for 25 or for 19 blocks; other models take from them what lies at the same share of the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backend.merging.base_reading import BaseReading, block_weights
from backend.merging.block_layout import BlockLayout
from backend.merging.layouts import network_blocks
from backend.recipe import Weights

Curve = Callable[[float], float]  # from 0, the first block, to 1, the last
Values = Callable[[int], tuple[float, ...]]

_DROPPED = frozenset({*range(9, 12), *range(22, 25)})  # of the 25 blocks of SD 1.x, those that SDXL lacks


@dataclass(frozen=True, kw_only=True)
class Preset:
    """values: of so many blocks, in order. base: of everything outside of them."""

    name: str
    label: str
    values: Values
    base: float = 0.0


def preset_weights(preset: Preset, layout: BlockLayout, reading: BaseReading = BaseReading.OWN) -> Weights:
    """The preset for the blocks of a model.

    Read as supermerger does it, SDXL gets the numbers for 25 blocks without those that it lacks, and not the curve.
    """
    blocks = network_blocks(layout)
    is_converted = reading is BaseReading.SUPERMERGER and layout.name == "sdxl" and len(blocks) == 19
    values = without_missing_blocks(preset.values(25)) if is_converted else preset.values(len(blocks))
    return block_weights(preset.base, values, layout, reading)


def presets_for(layout: BlockLayout) -> tuple[Preset, ...]:
    """Those worth showing for a model: SD.Next's, which are for SDXL, for that alone."""
    return BUILTIN if layout.name == "sdxl" else SUPERMERGER


def without_missing_blocks(numbers: Sequence[float]) -> tuple[float, ...]:
    """The 19 (20) numbers for SDXL among the 25 (with BASE 26) for SD 1.x: without IN09-IN11 and OUT09-OUT11."""
    base, blocks = (numbers[:1], numbers[1:]) if len(numbers) == 26 else ((), numbers)
    return (*base, *(number for index, number in enumerate(blocks) if index not in _DROPPED))


def _along(curve: Curve) -> Values:
    return lambda count: tuple(curve(index / max(count - 1, 1)) for index in range(count))


def _steps(*runs: tuple[float, int]) -> Values:
    """runs: a value and how many blocks have it. Other counts take that of the nearest block."""
    table = [value for value, repeats in runs for _ in range(repeats)]

    def values(count: int) -> tuple[float, ...]:
        scale = (len(table) - 1) / max(count - 1, 1)
        return tuple(table[int(index * scale + 0.5)] for index in range(count))

    return values


def _smooth(y: float) -> float:
    return y * y * (3 - 2 * y)


def _fold(y: float) -> float:
    """Up from 0 to 1, and down, and up."""
    return 1 - abs(1 - y % 2)


def _reversed(curve: Curve) -> Curve:
    return lambda x: 1 - curve(x)


def _valley(x: float) -> float:
    return abs(2 * x - 1)


def _cosine(x: float) -> float:
    return (1 + math.cos(math.pi * x)) / 2


def _folded_smooth(times: int) -> Curve:
    return lambda x: _fold(times * _smooth(x))


def _smooth_folded(times: int) -> Curve:
    return lambda x: _smooth(_fold(times * x))


def _wave(strength: float) -> Curve:
    """From 0 over a hill and a valley to 1: a cubic through (1/2, 1/2)."""
    return lambda x: x + strength * x * (1 - x) * (1 - 2 * x)


# The first points of supermerger's TRUE_CUBIC_HERMITE at 25 blocks; the others lie on one cubic.
_TRUE_CUBIC_START = (
    0.0, 0.199031876929012, 0.325761959876543, 0.424641927083333, 0.498456790123457, 0.549991560570988, 0.58203125,
    0.597360869984568,
)  # fmt: skip


def _true_cubic(x: float) -> float:
    """On straight lines between the points at 25 blocks, where it is not known what is between them."""
    index = min(int(x * 24 + 1e-9), 23)
    share = x * 24 - index
    return _true_point(index) * (1 - share) + _true_point(index + 1) * share


def _true_point(index: int) -> float:
    x = index / 24
    if index < len(_TRUE_CUBIC_START):
        return _TRUE_CUBIC_START[index]
    return 77 / 12 * x**3 - 77 / 8 * x**2 + 25 / 6 * x + 1 / 24


def _one_third(table: Sequence[float]) -> Values:
    """SD.Next's own numbers at 19 blocks, which leave the curve in the middle; the curve at other counts."""
    curve = _along(_smooth_folded(3) if table[0] == 0 else _reversed(_smooth_folded(3)))
    return lambda count: tuple(table) if count == len(table) else curve(count)


def _mirrored(half: Sequence[float]) -> tuple[float, ...]:
    return (*half, *reversed(half[:-1]))


_ONE_THIRD = _mirrored((0.0, 2 / 27, 7 / 27, 0.5, 20 / 27, 25 / 27, 1.0, 49 / 54, 16 / 27, 0.0))
_ONE_THIRD_REVERSED = tuple(1 - value for value in _ONE_THIRD)


def _curve(name: str, label: str, curve: Curve) -> Preset:
    return Preset(name=name, label=label, values=_along(curve))


def _step(name: str, label: str, *runs: tuple[float, int]) -> Preset:
    return Preset(name=name, label=label, values=_steps(*runs))


def _smooth_steps() -> list[Preset]:
    presets: list[Preset] = []
    for sign, times, words in (
        ("*", 2, "a smooth hill"), ("*", 3, "a hill and a rise"), ("*", 4, "two hills"),
        ("/", 2, "one smooth wave"), ("/", 3, "one and a half waves"), ("/", 4, "two waves"),
    ):  # fmt: skip
        curve = _folded_smooth(times) if sign == "*" else _smooth_folded(times)
        name = f"SMOOTHSTEP{sign}{times}"
        presets.append(_curve(name, words.capitalize(), curve))
        presets.append(_curve(f"R_{name}", f"{words.capitalize()}, upside down", _reversed(curve)))
    return presets


def _everywhere(prefix: str, words: str) -> tuple[Preset, Preset]:
    return (
        _curve(f"{prefix}ALL_A", f"{words} of A", lambda x: 0.0),
        Preset(name=f"{prefix}ALL_B", label=f"{words} of B", values=_along(lambda x: 1.0), base=1.0),
    )


SUPERMERGER: tuple[Preset, ...] = (
    _curve("GRAD_V", "B at both ends, A in the middle", _valley),
    _curve("GRAD_A", "A at both ends, B in the middle", _reversed(_valley)),
    _curve("FLAT_25", "A quarter of B", lambda x: 0.25),
    _curve("FLAT_75", "Three quarters of B", lambda x: 0.75),
    _step("WRAP08", "B in the outermost 8 blocks", (1, 4), (0, 17), (1, 4)),
    _step("WRAP12", "B in the outermost 12 blocks", (1, 6), (0, 13), (1, 6)),
    _step("WRAP14", "B in the outermost 14 blocks", (1, 7), (0, 11), (1, 7)),
    _step("WRAP16", "B in the outermost 16 blocks", (1, 8), (0, 9), (1, 8)),
    _step("MID12_50", "Half of B in the middle", (0, 5), (0.5, 14), (0, 6)),
    _step("OUT07", "B in the last 7 blocks", (0, 18), (1, 7)),
    _step("OUT12", "B on the way up", (0, 13), (1, 12)),
    _step("OUT12_5", "B on the way up, half of it in the middle", (0, 12), (0.5, 1), (1, 12)),
    _step("RING08_SOFT", "Two soft rings of B", (0, 5), (0.5, 1), (1, 3), (0.5, 1), (0, 5), (0.5, 1), (1, 3),
          (0.5, 1), (0, 5)),
    _step("RING08_5", "Two rings of B, 8 blocks", (0, 6), (1, 4), (0, 5), (1, 4), (0, 6)),
    _step("RING10_5", "Two rings of B, 10 blocks", (0, 5), (1, 5), (0, 5), (1, 5), (0, 5)),
    _step("RING10_3", "Two rings of B, 10 blocks near the middle", (0, 6), (1, 5), (0, 3), (1, 5), (0, 6)),
    _curve("SMOOTHSTEP", "From A smoothly to B", _smooth),
    _curve("REVERSE-SMOOTHSTEP", "From B smoothly to A", _reversed(_smooth)),
    *_smooth_steps(),
    _curve("COSINE", "From B to A along a cosine", _cosine),
    _curve("REVERSE_COSINE", "From A to B along a cosine", _reversed(_cosine)),
    _curve("TRUE_CUBIC_HERMITE", "A hill of B, then to B", _true_cubic),
    _curve("TRUE_REVERSE_CUBIC_HERMITE", "A hill of A, then to A", _reversed(_true_cubic)),
    _curve("FAKE_CUBIC_HERMITE", "A hill and a valley, then B", _wave(19 / 6)),
    _curve("FAKE_REVERSE_CUBIC_HERMITE", "A valley and a hill, then A", _reversed(_wave(19 / 6))),
    *_everywhere("", "All"),
)  # fmt: skip
SD_NEXT_XL: tuple[Preset, ...] = (
    _curve("SDXL_GRAD_V", "SDXL: B at both ends, A in the middle", _valley),
    _curve("SDXL_GRAD_A", "SDXL: A at both ends, B in the middle", _reversed(_valley)),
    _curve("SDXL_FLAT_25", "SDXL: a quarter of B", lambda x: 0.25),
    _curve("SDXL_FLAT_75", "SDXL: three quarters of B", lambda x: 0.75),
    _step("SDXL_WRAP08", "SDXL: B in the outermost 8 blocks", (1, 4), (0, 11), (1, 4)),
    _step("SDXL_WRAP12", "SDXL: B in the outermost 12 blocks", (1, 6), (0, 7), (1, 6)),
    _step("SDXL_WRAP14", "SDXL: B in the outermost 14 blocks", (1, 7), (0, 5), (1, 7)),
    _step("SDXL_OUT07", "SDXL: B in the last 7 blocks", (0, 12), (1, 7)),
    _curve("SDXL_SMOOTHSTEP", "SDXL: from A smoothly to B", _smooth),
    _curve("SDXL_REVERSE_SMOOTHSTEP", "SDXL: from B smoothly to A", _reversed(_smooth)),
    _curve("SDXL_HALF_SMOOTHSTEP", "SDXL: one smooth wave", _smooth_folded(2)),
    _curve("SDXL_HALF_R_SMOOTHSTEP", "SDXL: one smooth wave, upside down", _reversed(_smooth_folded(2))),
    Preset(name="SDXL_ONE_THIRD_SMOOTHSTEP", label="SDXL: two waves with a gap", values=_one_third(_ONE_THIRD)),
    Preset(name="SDXL_ONE_THIRD_R_SMOOTHSTEP", label="SDXL: two waves with a gap, upside down",
           values=_one_third(_ONE_THIRD_REVERSED)),
    _curve("SDXL_COSINE", "SDXL: from B to A along a cosine", _cosine),
    _curve("SDXL_REVERSE_COSINE", "SDXL: from A to B along a cosine", _reversed(_cosine)),
    _curve("SDXL_CUBIC_HERMITE", "SDXL: a hill and a valley, then B", _wave(41 / 9)),
    _curve("SDXL_REVERSE_CUBIC_HERMITE", "SDXL: a valley and a hill, then A", _reversed(_wave(41 / 9))),
    *_everywhere("SDXL_", "SDXL: all"),
)  # fmt: skip
BUILTIN: tuple[Preset, ...] = (*SUPERMERGER, *SD_NEXT_XL)
