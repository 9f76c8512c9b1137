"""Factors by block for LoRAs, held against the lists and the rules of sd-webui-lora-block-weight."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from backend.errors import RequestError
from backend.merging.block_layout import BlockLayout, Place
from backend.merging.layouts import layout_of, network_blocks, weight_at
from backend.merging.lora_block_weights import ELEMENTAL_PRESETS, block_weights
from backend.merging.lora_presets import BUILTIN as PRESETS
from backend.recipe import Weights
from tests.test_headers import HeaderOnly

LISTS = json.loads((Path(__file__).parent / "data" / "network_tags.json").read_text())["block_weight_lists"]
NAMES: dict[int, list[str]] = {int(length.split("_")[0]): names for length, names in LISTS["lists"].items()}
TO_26 = [case for case in LISTS["cases"] if case["op"].endswith("->26")]
SD1, SDXL, FLUX, SD3 = (layout_of(family) for family in ("sd1", "sdxl", "flux", "sd3"))
UNET_LENGTHS = (12, 17, 20, 26)


def values(weights: Weights, layout: BlockLayout) -> list[float]:
    """Of BASE and all blocks of the network."""
    return [weight_at(weights, Place(block=block)) for block in ("TE1", *network_blocks(layout))]


def counted(length: int) -> list[float]:
    """As many different numbers."""
    return [round(0.05 + index / 100, 2) for index in range(length)]


def text_of(numbers: list[float]) -> str:
    return ",".join(map(str, numbers))


def test_nothing_said_is_the_whole_lora() -> None:
    assert block_weights("", "", SD1) == Weights(base=1.0)


@pytest.mark.parametrize("case", TO_26, ids=lambda case: case["op"])
def test_short_lists_become_long_ones_with_0_between(case) -> None:
    tenths = [number / 10 for number in case["inp"]]  # so that they lie in the range of weights
    assert values(block_weights(text_of(tenths), "", SD1), SD1) == [number / 10 for number in case["out"]]


@pytest.mark.parametrize("length", UNET_LENGTHS)
@pytest.mark.parametrize("layout", [SD1, SDXL], ids=["sd1", "sdxl"])
def test_a_list_means_the_same_blocks_in_every_unet(layout, length) -> None:
    named = dict(zip(NAMES[length], counted(length), strict=True))
    found = values(block_weights(text_of(counted(length)), "", layout), layout)
    assert found == [named["BASE"], *(named.get(block, 0.0) for block in network_blocks(layout))]


@pytest.mark.parametrize("name", ["sd15", "sdxl-base"])
@pytest.mark.parametrize("length", UNET_LENGTHS)
def test_every_weight_of_a_unet_and_its_text_encoders_has_the_number_of_its_block(name, length) -> None:
    keys = HeaderOnly(name).keys()
    layout = layout_of("sd1" if name == "sd15" else "sdxl", keys)
    named = dict(zip(NAMES[length], counted(length), strict=True))
    weights = block_weights(text_of(counted(length)), "", layout)
    blocks = [(key, block) for key in keys if (block := unet_block(key)) is not None]
    assert len(blocks) > 800
    for key, block in blocks:
        assert weight_at(weights, layout.place_of(key)) == named.get(block, 0.0), key


def unet_block(key: str) -> str | None:
    """As that extension finds it in a key; None for what it finds no block for."""
    if "first_stage_model" in key:
        return None
    found = re.search(r"diffusion_model_(input_blocks|output_blocks|middle_block)_(\d+)_", key.replace(".", "_"))
    if found is None:
        return "BASE" if any(part in key for part in ("encoder", "embedders", "transformer.resblocks")) else None
    if found[1] == "middle_block":
        return "M00"
    return f"{'IN' if found[1] == 'input_blocks' else 'OUT'}{int(found[2]):02}"


def test_every_weight_of_flux_has_the_number_of_its_block() -> None:
    keys = HeaderOnly("flux-dev").keys()
    layout = layout_of("flux", keys)
    named = dict(zip(NAMES[61], counted(61), strict=True))
    weights = block_weights(text_of(counted(61)), "", layout)
    for key in keys:
        assert weight_at(weights, layout.place_of(key)) == named[flux_block(key)], key
    assert weight_at(weights, Place(block="TE1")) == named["CLIP"]
    assert weight_at(weights, Place(block="T5")) == named["T5"]


def flux_block(key: str) -> str:
    found = re.search(r"(double|single)_blocks\.(\d+)\.", key)
    if found is not None:
        return f"{found[1][0].upper()}{int(found[2]):02}"
    return "OUT" if "final_layer" in key else "IN"


def test_what_lies_outside_of_blocks_and_encoders_takes_base() -> None:
    weights = block_weights(text_of(counted(17)), "", SDXL)
    assert {weight_at(weights, Place(block=block)) for block in ("TIME", "LABEL", "FINAL", "TE2")} == {0.05}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_presets_are_known_by_their_names(preset) -> None:
    layout = FLUX if len(preset.numbers) == 61 else SD1
    written = block_weights(text_of(list(preset.numbers)), "", layout)
    assert block_weights(preset.name, "", layout) == block_weights(preset.name.lower(), "", layout) == written


def test_presets_of_the_user_come_first_and_may_hold_what_is_drawn_or_given() -> None:
    mine = {"MIDD": "0.5,0,0,0,0,0,0,X,X+0.25,X-0.25,0,0", "ROUT": text_of([1.0] * 8) + ",R" * 9}
    found = values(block_weights("MIDD", "", SDXL, x=0.75, presets=mine), SDXL)
    assert found[0] == 0.5
    assert found[-9:] == [0, 0.75, 1.0, 0.5, 0, 0, 0, 0, 0]
    drawn = values(block_weights("ROUT", "", SD1, presets=mine), SD1)[-9:]
    assert len(set(drawn)) > 1


def test_x_is_1_where_nothing_else_is_said() -> None:
    assert values(block_weights("x," + "X-0.5," * 11, "", SDXL), SDXL)[0] == 1.0


def test_drawn_numbers_have_three_decimals_and_lie_in_their_range() -> None:
    between_0_and_1 = values(block_weights("R," * 26, "", SD1), SD1)
    wider = values(block_weights("U," * 26, "", SD1), SD1)
    assert all(0 <= number <= 1 and number == round(number, 3) for number in between_0_and_1)
    assert all(-0.5 <= number <= 1.5 and number == round(number, 3) for number in wider)
    assert min(wider) < 0
    assert max(wider) > 1
    assert len(set(between_0_and_1)) > 20


def test_equal_texts_draw_equal_numbers_and_others_draw_others() -> None:
    text = "R," * 17
    assert block_weights(text, "", SD1) == block_weights(text, "", SD1)
    one = block_weights(text, "", SD1, drawn_from="<lora:a:1:lbw=R>")
    assert one == block_weights(text, "", SD1, drawn_from="<lora:a:1:lbw=R>")
    assert one != block_weights(text, "", SD1, drawn_from="<lora:b:1:lbw=R>")
    assert values(one, SD1)[0] == pytest.approx(0.778), "numbers of a text must stay the same in later versions"


def test_elements_take_the_place_of_the_number_of_their_block() -> None:
    found = block_weights("ALL0.5", "IN05-OUT05:attn:0, OUT:to_k:0.25", SD1)
    attention = Place(block="IN07", kind="cross_attention.k", part="1.0")
    assert weight_at(found, attention) == 0
    assert weight_at(found, Place(block="IN07", kind="feed_forward.in", part="1.0")) == 0.5
    assert weight_at(found, Place(block="IN04", kind="cross_attention.k", part="1.0")) == 0.5
    assert weight_at(found, Place(block="OUT04", kind="cross_attention.k", part="1.0")) == 0.25


@pytest.mark.parametrize("name", ELEMENTAL_PRESETS)
def test_elements_have_presets_too(name) -> None:
    assert block_weights("MIDD", name, SDXL) == block_weights("MIDD", ELEMENTAL_PRESETS[name], SDXL)
    assert block_weights("MIDD", name, SDXL) != block_weights("MIDD", "", SDXL)


def test_elements_of_the_user_come_first_and_need_no_list() -> None:
    found = block_weights("", "MINE", SDXL, elemental_presets={"MINE": "OUT00:attn2:0"})
    assert weight_at(found, Place(block="OUT00", kind="cross_attention.q", part="1.0")) == 0
    assert weight_at(found, Place(block="OUT01", kind="cross_attention.q", part="1.0")) == 1


def test_entries_by_name_stand_alone_or_behind_a_list_or_preset() -> None:
    alone = block_weights("BASE=1, IN=0.5, OUT=2.0", "", SDXL)
    assert values(alone, SDXL) == [1.0, *[0.5] * 9, 1.0, *[2.0] * 9]
    behind = block_weights("MIDD, IN07=0.25", "", SD1)
    assert weight_at(behind, Place(block="IN07")) == 0.25
    assert weight_at(behind, Place(block="IN08")) == 1
    network_alone = block_weights("BASE=0, TE=1, M=0.7", "", SDXL)
    assert values(network_alone, SDXL) == [1.0, *[0.0] * 9, 0.7, *[0.0] * 9]
    assert weight_at(network_alone, Place(block="TIME")) == 0


def test_models_without_such_blocks_have_lists_of_their_own_length() -> None:
    assert values(block_weights(text_of(counted(25)), "", SD3), SD3) == counted(25)


@pytest.mark.parametrize(
    ("text", "elemental", "layout", "said"),
    [
        ("NOBODY", "", SD1, "NOBODY"),
        ("1,0,1", "", SD1, "holds 3 numbers"),
        ("MIDD", "", FLUX, "holds 17 numbers"),
        ("1,2,X*2", "", SD1, r"X\*2"),
        ("IN=1", "", FLUX, "no block"),
        (text_of([1.0] * 16) + ",11", "", SD1, "-10 to 10"),
        (text_of([1.0] * 16) + ",nan", "", SD1, "no number"),
        ("", "NOBODY", SD1, "ATTNDEEPON"),
        ("", "IN05-OUT05:nothing:1", SD1, "nothing"),
        ("", "IN05-OUT05:attn:much", SD1, "much"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(text, elemental, layout, said) -> None:
    with pytest.raises(RequestError, match=said):
        block_weights(text, elemental, layout)
