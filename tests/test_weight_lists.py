"""Weights by block as people write and copy them."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import RequestError
from backend.merging.base_reading import BaseReading
from backend.merging.block_layout import BlockLayout, Place
from backend.merging.layouts import is_for, layout_of, network_blocks, weight_at
from backend.merging.lora_presets import BUILTIN as LORA_PRESETS
from backend.merging.number_lists import names_by_length
from backend.merging.preset_files import NamedNumbers
from backend.merging.presets import BUILTIN, preset_weights
from backend.merging.selectors import check_weights
from backend.merging.weight_lists import list_numbers, read_weights, write_weights
from backend.recipe import Override, Weights
from tests.test_headers import HeaderOnly

MAPPING = json.loads((Path(__file__).parent / "data" / "merge_mapping.json").read_text())
SD1, SDXL, SD3, FLUX, PIXART = (layout_of(family) for family in ("sd1", "sdxl", "sd3", "flux", "pixart"))
LAYOUTS = {layout.name: layout for layout in (SD1, SDXL, SD3, FLUX, PIXART, layout_of("sdxl-refiner"))}


def numbers(count: int) -> list[float]:
    return [index / 1000 for index in range(count)]


def text_of(values: list[float]) -> str:
    return ",".join(map(str, values))


def at(weights: Weights, block: str) -> float:
    return weight_at(weights, Place(block=block))


# Our own entries


def test_entries_name_blocks_groups_and_the_base() -> None:
    weights = read_weights("IN00=0.2,M00=0.8,OUT=0.3,BASE=0", SD1)
    assert weights.base == 0.0
    assert at(weights, "IN00") == 0.2
    assert at(weights, "IN01") == 0.0
    assert at(weights, "M00") == 0.8
    assert {at(weights, f"OUT{number:02}") for number in range(12)} == {0.3}
    assert at(weights, "TE1") == 0.0


def test_what_no_entry_names_keeps_the_base_that_was_given() -> None:
    weights = read_weights("in00 = .2 ;\n m = 1", SD1, base=0.5)
    assert (at(weights, "IN00"), at(weights, "M00"), at(weights, "OUT04"), at(weights, "VAE")) == (0.2, 1.0, 0.5, 0.5)


def test_ranges_parts_kinds_and_streams_can_be_named() -> None:
    weights = read_weights(
        "IN04-OUT01=0.1, IN05.1.0=0.2, M00+OUT00:self_attention+norm=0.3, cross_attention.k=0.4", SDXL
    )
    assert at(weights, "IN03") == 0.0
    assert at(weights, "M00") == 0.1
    assert weight_at(weights, Place(block="IN05", part="1.0", kind="norm.norm1")) == 0.2
    assert weight_at(weights, Place(block="IN05", part="1.1", kind="norm.norm1")) == 0.1
    assert weight_at(weights, Place(block="OUT00", kind="self_attention.v", part="1.3")) == 0.3
    assert weight_at(weights, Place(block="OUT01", kind="self_attention.v", part="1.3")) == 0.1
    assert weight_at(weights, Place(block="IN01", kind="cross_attention.k")) == 0.4
    text = read_weights("*::text=0.5, D00-D03:feed_forward:image=0.6", FLUX)
    assert weight_at(text, Place(block="D09", kind="norm.key", stream="text")) == 0.5
    assert weight_at(text, Place(block="D02", kind="feed_forward.in", stream="image")) == 0.6
    assert weight_at(text, Place(block="S02", kind="modulation.single")) == 0.0


def test_a_single_number_is_for_everything() -> None:
    assert read_weights(" 0.25 ", SD1) == Weights(base=0.25)


def test_json_is_read_as_recipes_have_it() -> None:
    text = '{"base": 0.5, "overrides": [{"value": 1, "blocks": ["IN00"], "kinds": ["norm"]}]}'
    assert read_weights(text, SD1) == Weights(
        base=0.5, overrides=(Override(value=1.0, blocks=("IN00",), kinds=("norm",)),)
    )


def names(options: list[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(options), unique=True, max_size=5).map(tuple) if options else st.just(())


@st.composite
def overrides_of(draw: st.DrawFn, layout: BlockLayout) -> Override:
    groups = [tuple(block.name for block in layout.blocks if block.group == group) for group in ("TE", "REST", "OUT")]
    return Override(
        value=draw(st.floats(-10, 10)),
        blocks=draw(
            st.one_of(names([block.name for block in layout.blocks]), st.sampled_from(groups), st.just(("IN04.1.0",)))
            if layout.name == "sdxl"
            else names([block.name for block in layout.blocks])
        ),
        kinds=draw(names(list(layout.kinds))),
        streams=draw(names(list(layout.streams))),
    )


@pytest.mark.parametrize("family", LAYOUTS)
@settings(deadline=None, derandomize=True, max_examples=40)
@given(data=st.data())
def test_weights_are_read_as_they_were_written(family: str, data: st.DataObject) -> None:
    layout = LAYOUTS[family]
    weights = Weights(
        base=data.draw(st.floats(-10, 10)), overrides=tuple(data.draw(st.lists(overrides_of(layout), max_size=6)))
    )
    assert read_weights(write_weights(weights, layout), layout) == weights


# Lists of numbers


LENGTHS = {"sd1": {26, 25, 20, 17, 12}, "sdxl": {110, 26, 25, 20, 19, 12}, "sd3": {25, 24}, "flux": {61, 58, 57},
           "pixart": {29, 28}, "sdxl-refiner": {26, 25, 20, 17, 12}}  # fmt: skip


@pytest.mark.parametrize("family", LENGTHS)
def test_these_lengths_are_read(family: str) -> None:
    layout = LAYOUTS[family]
    assert set(names_by_length(layout)) == LENGTHS[family]
    for length, listed in names_by_length(layout).items():
        assert len(listed) == length == len(set(listed))
        check_weights(read_weights(text_of(numbers(length)), layout), layout)
        for wrong in (length + 1, length - 1):
            if wrong not in LENGTHS[family]:
                with pytest.raises(
                    RequestError, match=f"holds {wrong} numbers; this model takes {max(LENGTHS[family])} "
                ):
                    read_weights(text_of(numbers(wrong)), layout)


@pytest.mark.parametrize(("layout", "length"), [(SD1, 26), (SDXL, 20), (SD3, 25), (FLUX, 58), (PIXART, 29)])
@pytest.mark.parametrize("comma", [",", ", ", " ", "\n", ",\n", "\t"])
def test_a_list_is_read_whatever_stands_between_its_numbers(layout: BlockLayout, length: int, comma: str) -> None:
    values = numbers(length)
    assert list(list_numbers(read_weights(comma.join(map(str, values)), layout), layout)) == values


def test_a_list_without_base_leaves_it() -> None:
    assert list_numbers(read_weights(text_of(numbers(25)), SD1, base=0.7), SD1) == (0.7, *numbers(25))


LISTS = MAPPING["block_weight_lists"]
CASES = {case["op"].split()[0]: case for case in LISTS["cases"]}


def test_the_lists_are_those_of_other_programs() -> None:
    known = {key: tuple(value) for key, value in LISTS["lists"].items()}
    assert names_by_length(SD1)[26] == known["26"]
    assert names_by_length(SDXL)[20] == known["20"]
    assert (names_by_length(SD1)[17], names_by_length(SD1)[12]) == (known["17"], known["12"])
    renamed = {"CLIP": "TE1", "OUT": "FINAL"}
    assert names_by_length(FLUX)[61] == tuple(renamed.get(name, name) for name in known["61_flux"])


@pytest.mark.parametrize("operation", ["17->26", "12->26", "20->26"])
def test_short_lists_leave_other_blocks_at_nothing(operation: str) -> None:
    case = CASES[operation]
    scale = 10 / max(case["inp"])  # the cases count to 19, and weights go to 10
    weights = read_weights(text_of([value * scale for value in case["inp"]]), SD1)
    assert list_numbers(weights, SD1) == pytest.approx([value * scale for value in case["out"]])


def test_lists_for_sd1_are_cut_for_sdxl() -> None:
    case = CASES["26->20"]
    assert list(list_numbers(read_weights(text_of(case["inp"]), SDXL), SDXL)) == case["out"]


def test_the_long_list_of_sdxl_gives_every_block_of_a_transformer_its_own_number() -> None:
    weights = read_weights(text_of(numbers(110)), SDXL)
    listed = names_by_length(SDXL)[110]
    for block, part in (("IN04", "1.1"), ("IN08", "1.9"), ("M00", "2"), ("OUT05", "2"), ("OUT02", "1"), ("IN05", "0")):
        assert weight_at(weights, Place(block=block, part=part)) == listed.index(f"{block}.{part}") / 1000
    assert (at(weights, "TE1"), at(weights, "TE2"), at(weights, "IN00")) == (0.001, 0.002, 0.003)
    assert (at(weights, "FINAL"), at(weights, "TIME"), at(weights, "LABEL"), at(weights, "VAE")) == (
        0.106, 0.107, 0.108, 0.109,
    )  # fmt: skip


def test_the_long_list_of_sdxl_has_a_number_for_every_weight() -> None:
    source = HeaderOnly("sdxl-base")
    layout = layout_of("sdxl", source.keys())
    weights = read_weights(text_of(numbers(110)), layout)
    reached = {weight_at(weights, layout.place_of(key)) for key in source.keys()}
    assert reached == set(numbers(110))  # BASE is that of noise levels, which are no weights


def test_the_list_of_flux_has_numbers_for_encoders_and_ends() -> None:
    weights = read_weights(text_of(numbers(61)), FLUX, base=0.9)
    assert [at(weights, block) for block in ("TE1", "T5", "IMG_IN", "GUIDANCE", "D00", "S37", "FINAL", "VAE")] == [
        0.0, 0.001, 0.002, 0.002, 0.003, 0.059, 0.06, 0.9,
    ]  # fmt: skip
    assert at(read_weights(text_of(numbers(61)), FLUX, BaseReading.SUPERMERGER, base=0.9), "VAE") == 0.0


# What BASE means


OUTSIDE = ("TE1", "VAE", "TIME", "FINAL")


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (BaseReading.OWN, (0.0, 0.0, 0.0, 0.0)),
        (BaseReading.SUPERMERGER, (0.0, 0.0, 0.001, 0.025)),
        (BaseReading.SD_MECHA, (0.0, 0.0, 0.0, 0.025)),
        (BaseReading.SD_NEXT, (0.0, 0.0, 0.0, 0.024)),
    ],
)
def test_what_lies_outside_of_the_25_blocks(reading: BaseReading, expected: tuple[float, ...]) -> None:
    weights = read_weights(text_of(numbers(26)), SD1, reading)
    assert tuple(at(weights, block) for block in OUTSIDE) == expected


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (BaseReading.OWN, (0.5, 0.5, 0.5, 0.5, 0.5)),
        (BaseReading.SUPERMERGER, (0.5, 0.5, 0.001, 0.019, 0.001)),
        (BaseReading.SD_MECHA, (0.5, 0.0, 0.5, 0.019, 0.5)),
        (BaseReading.SD_NEXT, (0.5, 0.5, 0.5, 0.018, 0.019)),
    ],
)
def test_what_lies_outside_of_the_19_blocks(reading: BaseReading, expected: tuple[float, ...]) -> None:
    weights = read_weights(text_of([0.5, *numbers(20)[1:]]), SDXL, reading)
    assert tuple(at(weights, block) for block in (*OUTSIDE, "LABEL")) == expected


@pytest.mark.parametrize(("cases", "layout"), [("block_of_key_sd1_sd2", SD1), ("block_of_key_sdxl", SDXL)])
def test_foreign_lists_do_to_each_weight_what_they_do_there(cases: str, layout: BlockLayout) -> None:
    listed = names_by_length(layout)[len(network_blocks(layout)) + 1]
    values = [0.5, *numbers(len(listed))[1:]]
    value = dict(zip(listed, values, strict=True))
    for case in MAPPING[cases]["cases"]:
        place = layout.place_of(case["key"])
        as_supermerger = read_weights(text_of(values), layout, BaseReading.SUPERMERGER)
        as_mecha = read_weights(text_of(values), layout, BaseReading.SD_MECHA)
        mecha = case.get("sd_mecha_sd1", case.get("sd_mecha"))
        assert weight_at(as_supermerger, place) == value[case["supermerger"]], case
        assert weight_at(as_mecha, place) == value.get(mecha, 0.0), case


def test_sd_next_gives_each_block_the_number_before_its_own() -> None:
    weights = read_weights(text_of(numbers(26)), SD1, BaseReading.SD_NEXT)
    assert list_numbers(weights, SD1) == (0.0, *numbers(25))


def test_every_reading_has_a_label() -> None:
    assert len({reading.label for reading in BaseReading}) == len(BaseReading)


# Presets


@pytest.mark.parametrize("preset", BUILTIN, ids=lambda preset: preset.name)
def test_presets_are_known_by_name(preset: object) -> None:
    assert isinstance(preset, type(BUILTIN[0]))
    assert read_weights(preset.name.lower(), SD1) == preset_weights(preset, SD1)


def test_presets_of_the_user_count_more_and_have_any_name() -> None:
    mine = (NamedNumbers(name="GRAD_V", numbers=(1.0,) * 26), NamedNumbers(name="a=b: c", numbers=(0.5,) * 26))
    assert at(read_weights("GRAD_V", SD1, presets=mine), "M00") == 1.0
    assert at(read_weights("a=b: c", SD1, presets=mine), "M00") == 0.5
    with pytest.raises(RequestError, match="26 numbers"):
        read_weights("a=b: c", SD3, presets=mine)


@pytest.mark.parametrize("preset", LORA_PRESETS, ids=lambda preset: preset.name)
def test_presets_for_loras_fit_the_model_that_they_are_for(preset: NamedNumbers) -> None:
    layout = FLUX if preset.name == "FLUXALL" else SD1
    weights = read_weights(preset.name, layout)
    first = "TE1" if layout is FLUX else "VAE"
    assert at(weights, first) == preset.numbers[0]
    assert at(weights, network_blocks(layout)[-1]) == preset.numbers[-1]


def test_a_line_of_a_file_of_presets_is_read() -> None:
    weights = read_weights("my preset\t" + text_of(numbers(26)), SD1)
    assert list(list_numbers(weights, SD1)) == numbers(26)


# supermerger's elemental lines


WORDS = [
    "attn", "attn1", "attn2", "attn2.to_out", "to_k", "to_q to_v", "ff", "ff.net.0.proj", "ff.net.2", "norm", "norm1",
    "proj", "proj_in", "in_layers.0", "in_layers", "emb_layers.1", "out_layers.3", "skip_connection", "op", "conv",
    "attn2 attn1.to_out", "transformer_blocks", "NOT attn", "NOT proj norm", "NOT in_layers.2", "transformer_blocks.1",
    "NOT transformer_blocks", "transformer_blocks.0.attn1",
]  # fmt: skip


@pytest.mark.parametrize("words", WORDS)
def test_elements_are_the_weights_in_whose_names_they_occur(words: str) -> None:
    assert_are_occurrences("sdxl", "sdxl-base", words, range(4, 16))


FLUX_WORDS = [
    "img_attn", "txt_attn.qkv", "img", "NOT img", "txt_mlp img_mlp.0", "linear1", "query_norm", "NOT query_norm",
    "norm", "modulation", "mod", "mlp", "NOT mlp linear2",
]  # fmt: skip


@pytest.mark.parametrize("words", FLUX_WORDS)
def test_elements_of_flux_are_the_weights_in_whose_names_they_occur(words: str) -> None:
    assert_are_occurrences("flux", "flux-dev", words, range(2, 40))


@pytest.mark.parametrize(
    "words", ["x_block", "context_block.attn", "attn.qkv", "attn2", "NOT x_block", "mlp.fc1", "ln_q"]
)
def test_elements_of_sd3_are_the_weights_in_whose_names_they_occur(words: str) -> None:
    assert_are_occurrences("sd3", "sd35-medium", words, range(2, 20))


def assert_are_occurrences(family: str, name: str, words: str, inside: range) -> None:
    source = HeaderOnly(name)
    layout = layout_of(family, source.keys())
    blocks = [network_blocks(layout)[index] for index in inside]
    weights = read_weights(f"{blocks[0]}-{blocks[-1]}:{words}:1", layout)
    for key in source.keys():
        place = layout.place_of(key)
        part = key.removeprefix("model.diffusion_model.")
        occurs = any(word in part for word in words.removeprefix("NOT ").split()) != words.startswith("NOT ")
        assert weight_at(weights, place) == float(place.block in blocks and occurs), key


def test_later_lines_count_more_and_stand_behind_a_list() -> None:
    text = text_of([0.0] * 26) + "\nOUT06:attn:0.5,OUT06:attn2.to_k:0.2\nNOT OUT04 OUT05::0.1\nBASE::0.9"
    weights = read_weights(text, SD1)
    assert weight_at(weights, Place(block="OUT04", kind="norm.norm")) == 0.0
    assert weight_at(weights, Place(block="OUT06", kind="cross_attention.k")) == 0.1
    assert (at(weights, "TE1"), at(weights, "VAE"), at(weights, "TIME")) == (0.9, 0.9, 0.1)
    first = read_weights("OUT06:attn:0.5,OUT06:attn2.to_k:0.2", SD1)
    assert weight_at(first, Place(block="OUT06", kind="cross_attention.k")) == 0.2
    assert weight_at(first, Place(block="OUT06", kind="cross_attention.q")) == 0.5


def test_a_line_may_have_a_name() -> None:
    assert read_weights("ATTNDEEPON:IN05-OUT05:attn:1", SD1) == read_weights("IN05-OUT05:attn:1", SD1)
    assert read_weights("XYZ:::1", SD1) == Weights(base=0.0, overrides=(Override(value=1.0),))


# What is refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("IN99=0.5", r'entry 1 \("IN99=0.5"\): there is no block "IN99"; did you mean IN09'),
        ("IN00=1, OTU03=2", r"entry 2 .*did you mean OUT03"),
        ("IN00=nan", 'entry 1 .*"nan" is no number'),
        ("IN00=inf", '"inf" is no number'),
        ("IN00=11", "11 is outside -10 to 10"),
        ("IN00=", '"" is no number'),
        (text_of([0.0] * 3 + [float("nan")] + [0.0] * 22), 'number 4: "nan"'),
        ("0,1,2", "holds 3 numbers; this model takes 26"),
        ("IN00:self_atention=1", "did you mean self_attention"),
        ("IN00::text=1", "no separate streams"),
        ("IN00:norm:text:more=1", "at most blocks, kinds and streams"),
        ("IN00-IN99=1", 'no block "IN99"'),
        ("0.5 R 0.5", "is neither"),
        ("R", "random numbers are not read"),
        ("GRAD_X", "is neither a number"),
        ("IN05:weight:1", '"weight" names no kind of layer'),
        ("IN05:attn:x", '"x" is no number'),
        ("IN05 IN77:attn:1", "IN77"),
        ("{", "is no JSON"),
        ('{"base": 0, "overrides": [{"value": 1, "blocks": ["J00"]}]}', r'override 1: there is no block "J00"'),
        ('{"base": 0, "overrides": [{"value": 1, "blocks": ["OUT"]}]}', "spelt out"),
        ('{"base": 0, "overrides": [{"value": 1, "kinds": ["modulation"]}]}', "no kind of layer"),
        ("x" * 2_000_000, "at most"),
    ],
)
def test_a_text_that_is_wrong_is_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said) as error:
        read_weights(text, SD1)
    assert error.value.field == "weights"


@settings(deadline=None, derandomize=True, max_examples=300)
@given(text=st.text(alphabet="IN0OUTM1.,:=-+*{}\t\n R", max_size=40))
def test_no_text_does_anything_but_be_read_or_refused(text: str) -> None:
    try:
        weights = read_weights(text, SD1)
    except RequestError:
        return
    check_weights(weights, SD1)
    assert read_weights(write_weights(weights, SD1), SD1) == weights


def test_transformers_inside_of_blocks_are_of_u_nets_only() -> None:
    with pytest.raises(RequestError, match="only U-Nets"):
        read_weights("B05:transformer_blocks.0:1", PIXART)


def test_an_override_of_a_group_reaches_all_of_it() -> None:
    (override,) = read_weights("TE=0.5", FLUX).overrides
    assert override.blocks == ("TE1", "T5")
    assert is_for(override, Place(block="T5"))
