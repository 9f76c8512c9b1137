"""Presets are those of other programs, number for number, and curves of the same shape for other models."""

import gzip
import json
import math
import re
from pathlib import Path

import pytest

from backend.errors import RequestError
from backend.merging.base_reading import BaseReading
from backend.merging.layouts import layout_of, network_blocks
from backend.merging.lora_presets import BUILTIN as LORA_PRESETS
from backend.merging.network_blocks import NETWORKS
from backend.merging.number_lists import names_by_length
from backend.merging.preset_files import NamedNumbers, numbers_of_line, read_presets, write_presets
from backend.merging.presets import (
    BUILTIN,
    SD_NEXT_XL,
    SUPERMERGER,
    Preset,
    preset_weights,
    presets_for,
    without_missing_blocks,
)
from backend.merging.weight_lists import list_numbers

DATA = Path(__file__).parent / "data"


def stored(name: str) -> dict[str, list[float]]:
    return json.loads(gzip.decompress((DATA / f"{name}.json.gz").read_bytes()))


def test_all_presets_of_both_programs_are_there() -> None:
    assert [preset.name for preset in SUPERMERGER] == list(stored("merge_presets_26"))
    assert [preset.name for preset in SD_NEXT_XL] == list(stored("merge_presets_sdxl_20"))
    assert (len(SUPERMERGER), len(SD_NEXT_XL)) == (38, 20)
    assert len({preset.name for preset in BUILTIN}) == len({preset.label for preset in BUILTIN}) == 58


@pytest.mark.parametrize("preset", SUPERMERGER, ids=lambda preset: preset.name)
def test_presets_for_25_blocks_are_those_of_supermerger(preset: Preset) -> None:
    known = stored("merge_presets_26")[preset.name]
    assert (preset.base, *preset.values(25)) == pytest.approx(known, abs=1e-9)
    assert list_numbers(preset_weights(preset, layout_of("sd1")), layout_of("sd1")) == pytest.approx(known, abs=1e-9)


@pytest.mark.parametrize("preset", SD_NEXT_XL, ids=lambda preset: preset.name)
def test_presets_for_19_blocks_are_those_of_sd_next(preset: Preset) -> None:
    """Which rounds them to six places."""
    known = stored("merge_presets_sdxl_20")[preset.name]
    rounded = [round(value, 6) for value in (preset.base, *preset.values(19))]
    assert rounded == pytest.approx(known, abs=1e-9)


@pytest.mark.parametrize("preset", BUILTIN, ids=lambda preset: preset.name)
@pytest.mark.parametrize("count", [1, 2, 12, 19, 24, 25, 38, 57])
def test_presets_fit_any_number_of_blocks(preset: Preset, count: int) -> None:
    values = preset.values(count)
    assert len(values) == count
    assert all(math.isfinite(value) and -1e-9 <= value <= 1 + 1e-9 for value in values)


@pytest.mark.parametrize("preset", BUILTIN, ids=lambda preset: preset.name)
def test_curves_begin_and_end_alike_whatever_the_number_of_blocks(preset: Preset) -> None:
    few, many = preset.values(25), preset.values(57)
    assert (few[0], few[-1]) == pytest.approx((many[0], many[-1]))
    assert sum(few) / 25 == pytest.approx(sum(many) / 57, abs=0.06)


def test_only_sdxl_is_offered_the_presets_that_are_for_it() -> None:
    assert presets_for(layout_of("sdxl")) == BUILTIN
    assert presets_for(layout_of("flux")) == presets_for(layout_of("sd1")) == SUPERMERGER


def test_a_preset_becomes_one_override_for_each_block() -> None:
    layout = layout_of("flux")
    weights = preset_weights(next(preset for preset in BUILTIN if preset.name == "GRAD_A"), layout)
    assert tuple(override.blocks[0] for override in weights.overrides) == network_blocks(layout)
    assert (weights.base, weights.overrides[28].value, weights.overrides[56].value) == (0.0, 1.0, 0.0)


def test_read_as_in_supermerger_sdxl_gets_the_25_numbers_without_its_missing_blocks() -> None:
    preset = next(preset for preset in BUILTIN if preset.name == "GRAD_V")
    weights = preset_weights(preset, layout_of("sdxl"), BaseReading.SUPERMERGER)
    known = stored("merge_presets_26")["GRAD_V"]
    assert list_numbers(weights, layout_of("sdxl")) == pytest.approx([*known[:10], *known[13:23]], abs=1e-9)


def test_26_numbers_become_20_and_25_become_19() -> None:
    case = json.loads((DATA / "merge_mapping.json").read_text())["block_weight_lists"]["cases"][0]
    assert list(without_missing_blocks(case["inp"])) == case["out"]
    assert list(without_missing_blocks(case["inp"][1:])) == case["out"][1:]


# Presets of users


PRESETS = (
    NamedNumbers(name="mine", numbers=(0.0, 0.1, -0.25, 1e-7)),
    NamedNumbers(name="Über 50%", numbers=(1.0,) * 26),
)


def test_presets_are_read_as_they_were_written() -> None:
    assert read_presets(write_presets(PRESETS)) == PRESETS
    assert read_presets("") == ()


def test_a_file_of_supermerger_is_read() -> None:
    text = "preset_name\tpreset_weights\nGRAD_V\t0,1,0.9\r\n\nMY ONE\t0.5, 0.5 ,1\nGRAD_V\t1,1\n"
    assert read_presets(text) == (
        NamedNumbers(name="GRAD_V", numbers=(1.0, 1.0)),
        NamedNumbers(name="MY ONE", numbers=(0.5, 0.5, 1.0)),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\t0,1\nb 0,1", "line 2.*a tab"),
        ("a\t0,x", 'line 1, number 2: "x"'),
        ("a\t0,nan", 'number 2: "nan"'),
        ("a\t0,inf", 'number 2: "inf"'),
        ("a\t11", 'number 1: "11" is no number from -10 to 10'),
        ("a\t", "number 1"),
        ("\t1", "must be a name"),
        ("a\t" + ",".join(["1"] * 2000), "2000 numbers"),
    ],
)
def test_a_damaged_file_of_presets_is_refused_by_line(text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_presets(text)


@pytest.mark.parametrize("name", ["", "a\tb", "a\nb", "a\x0bb", "#a", "preset_name", " a"])
def test_a_name_that_would_not_come_back_is_refused(name: str) -> None:
    with pytest.raises(RequestError):
        write_presets([NamedNumbers(name=name, numbers=(1.0,))])


def test_a_line_of_a_file_is_told_from_other_texts() -> None:
    assert numbers_of_line("mine\t0,1") == NamedNumbers(name="mine", numbers=(0.0, 1.0))
    assert numbers_of_line("0.5\t1") is None
    assert numbers_of_line("IN00=1\tIN01=2") is None


PAGE = (Path(__file__).parent.parent / "docs" / "merge-blocks.md").read_text("utf-8")


@pytest.mark.parametrize("preset", BUILTIN, ids=lambda preset: preset.name)
def test_presets_are_documented(preset: Preset) -> None:
    assert f"| {preset.label} | `{preset.name}` |" in PAGE


@pytest.mark.parametrize("family", NETWORKS)
def test_kinds_blocks_and_readings_are_documented(family: str) -> None:
    layout = layout_of(family)
    for kind, label in layout.kinds.items():
        parent, _, part = kind.partition(".")
        assert f"`.{part}`" in PAGE if part else f"| {label} `{parent}` |" in PAGE, kind
    assert all(block.name in PAGE for block in layout.blocks if block.group in ("REST", "TE", "VAE"))
    assert all(f"| `{reading.value}` |" in PAGE for reading in BaseReading)
    assert all(f"`{preset.name}`" in PAGE for preset in LORA_PRESETS)


@pytest.mark.parametrize("family", NETWORKS)
def test_the_lengths_of_lists_are_documented(family: str) -> None:
    blocks = len(network_blocks(layout_of(family)))
    special = set(names_by_length(layout_of(family))) - {blocks, blocks + 1}
    table = PAGE.partition("### Lists of numbers")[2].partition("###")[0]
    assert all(re.search(rf"\b{length}\b", table) for length in special)
