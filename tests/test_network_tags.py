"""Tags of the prompt: what A1111 and its extensions mean by them, and that none is lost without a word."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.adapter_row import StrengthCurve
from backend.text.network_tags import NetworkTag, read_tags

VECTORS = json.loads((Path(__file__).parent / "data" / "network_tags.json").read_text())
LBW_17 = VECTORS["block_weight_lists"]["lists"]["17"]


def tag(text: str) -> NetworkTag:
    """The only tag of a prompt with which nothing is wrong."""
    found = read_tags(text)
    assert found.notices == ()
    assert found.words == ""
    (only,) = found.tags
    assert only.text == text
    return only


def text_strength(found: NetworkTag) -> float:
    return found.strength if found.text_encoder_strength is None else found.text_encoder_strength


def strengths(found: NetworkTag, num_steps: int) -> list[float]:
    assert found.curve is not None
    return [found.curve.at(step, num_steps) for step in range(num_steps)]


def case_id(case: dict[str, Any]) -> str:
    return case["tag"]


@pytest.mark.parametrize("case", VECTORS["a1111_lora_tag"]["cases"], ids=case_id)
def test_a_lora_means_what_it_means_in_a1111(case):
    found = tag(case["tag"])
    assert (found.kind, found.name) == ("lora", case["name"])
    assert (text_strength(found), found.strength, found.max_rank) == (case["te"], case["unet"], case["dyn"])
    assert found.curve is None
    assert found.block_weights == found.elemental == ""


@pytest.mark.parametrize("case", VECTORS["lbw_tag"]["cases"], ids=case_id)
def test_arguments_of_lora_block_weight_are_read(case):
    found = tag(case["tag"])
    if "te" in case:
        assert (text_strength(found), found.strength) == (case["te"], case["unet"])
    if "lbw" in case:
        assert found.block_weights == case["lbw"]
    if "lbw_len" in case:
        numbers = found.block_weights.split(",")
        assert len(numbers) == case["lbw_len"]
        assert [LBW_17[index] for index, number in enumerate(numbers) if number != "0"] == case["lbw_nonzero"]
    assert found.elemental == case.get("lbwe", "")
    assert found.x == case.get("x", 1.0)
    if "start" in case or "stop" in case:
        on = [step for step, strength in enumerate(strengths(found, 20)) if strength]
        assert on == list(range(case.get("start", 0), case.get("stop", 20)))
    else:
        assert found.curve is None


@pytest.mark.parametrize(("prompt", "words", "networks"), VECTORS["prompts"])
def test_the_words_and_tags_of_a_prompt_are_those_that_a1111_finds(prompt, words, networks):
    found = read_tags(prompt)
    assert found.words == words
    known = [arguments[0] for kind, arguments in networks if kind in ("lora", "lyco", "hypernet")]
    assert [tag.name for tag in found.tags] == known
    assert len(found.notices) >= len(networks) - len(known)  # of an unknown kind


def test_lyco_is_another_word_for_lora_and_hypernetworks_have_one_strength():
    assert tag("<lyco:a:0.5>").kind == "lora"
    assert (tag("<hypernet:a b:0.4>").kind, tag("<hypernet:a b:0.4>").strength) == ("hypernet", 0.4)
    assert tag("<hypernet:x>").strength == 1


@pytest.mark.parametrize("name", ["style/ink.v2", "#0123456789ab", "ünï 日本", "a (b) [c]", "C - d_e"])
def test_names_stay_as_they_are_written(name):
    assert tag(f"<lora:{name}:0.5>").name == name


def test_weights_may_stand_under_w_and_lists_may_stand_third():
    assert tag("<lora:a:0.5:w=INS>").block_weights == "INS"
    assert tag("<lora:a:0.5:1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0>").block_weights.startswith("1,0,0,0,1")
    old = tag("<lora:a:0.5:MIDD:ATTNDEEPOFF>")
    assert (old.block_weights, old.elemental, old.strength) == ("MIDD", "ATTNDEEPOFF", 0.5)


def test_parts_of_the_unet_have_their_own_strength_in_place_of_the_common_one():
    found = tag("<lora:a:0.5:in=0.25:out=1>")
    assert (found.strength, found.block_weights) == (0.5, "BASE=1, IN=0.5, OUT=2.0")
    nothing_else = tag("<lora:a:0:mid=0.7>")
    assert (nothing_else.strength, text_strength(nothing_else)) == (1.0, 0.0)
    assert nothing_else.block_weights == "BASE=0, TE=1, M=0.7"


def test_strengths_with_positions_change_in_straight_lines():
    found = tag("<lora:a:te=0.5:unet=0@0,1@0.5,0.5@1>")
    assert (text_strength(found), found.strength) == (0.5, 0.0)
    assert strengths(found, 4) == [0.0, 0.5, 1.0, 0.75]
    both = tag("<lora:a:1@0;0@0.5>")
    assert text_strength(both) == 1.0
    assert strengths(both, 4) == [1.0, 0.5, 0.0, 0.0]


def test_positions_beyond_1_are_steps():
    found = tag("<lora:a:1:0@5,1@6>")
    assert text_strength(found) == 1.0
    assert strengths(found, 8) == strengths(found, 20)[:8] == [0, 0, 0, 0, 0, 0, 1, 1]


def test_points_are_put_in_order_and_one_point_is_a_plain_strength():
    assert strengths(tag("<lora:a:0@1,1@0>"), 2) == [1.0, 0.5]
    assert tag("<lora:a:0.7@0.5>").curve is None
    assert tag("<lora:a:0.7@0.5>").strength == 0.7


def test_a_number_without_a_position_is_for_the_end_and_it_is_said():
    found = read_tags("<lora:a:0@0,1>")
    assert strengths(found.tags[0], 4) == [0.0, 0.25, 0.5, 0.75]
    assert "for the end" in found.notices[0]


def test_w_with_positions_scales_the_denoiser_alone():
    found = tag("<lora:a:0.5:w=1@0,0@0.5>")
    assert (found.strength, text_strength(found)) == (0.5, 0.5)
    assert strengths(found, 4) == [0.5, 0.25, 0.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "on"),
    [
        ("start=2", range(2, 10)),
        ("stop=4", range(4)),
        ("step=2-4", range(2, 4)),
        ("start=0.5", range(5, 10)),
        ("stop=0.3", range(3)),
        ("step=0.2-0.7", range(2, 7)),
        ("start=0:stop=99", range(10)),
    ],
)
def test_start_and_stop_bound_the_steps_and_leave_the_text_encoder(arguments, on):
    found = tag(f"<lora:a:0.8:{arguments}>")
    assert strengths(found, 10) == [0.8 if step in on else 0.0 for step in range(10)]
    assert text_strength(found) == 0.8


def test_start_and_stop_cut_a_curve():
    found = tag("<lora:a:0@0,1@1:start=0.25:stop=0.75>")
    assert strengths(found, 8) == [0, 0, 0.25, 0.375, 0.5, 0.625, 0, 0]
    jump = StrengthCurve(points=((0.0, 1.0), (4.0, 1.0), (4.0, 0.0)), in_steps=True)
    assert tag("<lora:a:stop=4>").curve == jump


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<lora:a:strong>", "strong"),
        ("<lora:a:1:stroung=2>", "stroung=2"),
        ("<lora:a:abc=1:0.5>", "abc=1"),
        ("<lora:a:te=much>", "much"),
        ("<lora:a:nan>", "nan"),
        ("<lora:a:11>", "-10 to 10"),
        ("<lora:a:1:1:8.5>", "8.5"),
        ("<lora:a:dyn=-3>", "-3"),
        ("<lora:a:1:1:4:9>", '"9"'),
        ("<lora:a:x=y>", "x=y"),
        ("<lora:a:start=later>", "later"),
        ("<lora:a:step=5>", "5-10"),
        ("<lora:a:start=9:stop=3>", "before it starts"),
        ("<lora:a:start=0.5:stop=3>", "mixed"),
        ("<lora:a:0@0,1@1:stop=3>", "mixed"),
        ("<lora:a:0@0,1@1:w=1@0,0@1>", "w="),
        ("<lora:a:0@0,1@1:in=1>", "in="),
        ("<lora:a:1@0@2>", "1@0@2"),
        ("<hypernet:a:1:2>", '"2"'),
        ("<foo:a>", "no known kind"),
        ("<LORA:a>", "no known kind"),
        ("\\<lora:a:1>", "backslash"),
        ("<lora:a:1", "no complete tag"),
        ("<lora:>", "no complete tag"),
        ("<lora>", "no complete tag"),
        ("< lora:a:1>", "no complete tag"),
        ("&lt;lora:a:1&gt;", "no complete tag"),
    ],
)
def test_what_is_wrong_with_a_tag_is_said_with_the_tag(text, said):
    found = read_tags(f"a cat, {text}, a hat")
    assert any(said in notice and text.lstrip("\\").split(">")[0] in notice for notice in found.notices)


def test_what_cannot_be_read_has_its_default_and_the_rest_of_the_tag_counts():
    found = read_tags("<lora:a:te=much:unet=0.5:dyn=8>")
    assert (found.tags[0].strength, text_strength(found.tags[0]), found.tags[0].max_rank) == (0.5, 1.0, 8)
    assert read_tags("<lora:a:99>").tags[0].strength == 10


def test_0_ranks_are_all():
    assert tag("<lora:a:1:1:0>").max_rank is None


@pytest.mark.parametrize("words", ["a <3 b", "a < b", "x->y", "<b>bold</b>", "1 < 2 : 3 > 2", "<", "", "<:>", "<a:>"])
def test_what_is_no_tag_stays_without_a_word(words):
    found = read_tags(words)
    assert (found.words, found.tags, found.notices) == (words, (), ())


@pytest.mark.parametrize(
    "prompt",
    [
        "<lora:" * 11_000,
        "<lora:" * 11_000 + ">",
        "<lora:>" * 9_300,
        "<" * 65_000,
        "<lora" * 13_000,
        "<" + " " * 65_000,
        "<a" * 32_000 + ":>",
        "<lora:a:" + "=" * 65_000 + ">",
        "<lora:a:" + "x:" * 32_000 + ">",
        "<lora:a:" + "1@0," * 16_000 + ">",
        "<lora:a:step=" + "1." * 32_000 + ">",
        "\\<lora:a>" * 7_200,
    ],
    ids=range(12),
)
def test_long_prompts_cost_no_more_than_their_length(prompt):
    def seconds(text: str) -> float:
        begin = time.process_time()
        read_tags(text)
        return time.process_time() - begin

    assert min(seconds(prompt) for _ in range(2)) < 2  # 65 kB squared would be minutes
    assert len(read_tags(prompt).notices) <= 21


PIECES = st.sampled_from(
    ["<lora:", "<hypernet:", "<x:", ">", "<", ":", "=", "@", "te", "1", "0.5", ",", "-", "step", "\\", " "]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=30).map("".join))
def test_no_text_is_an_error_and_nothing_but_tags_is_taken_out(prompt):
    found = read_tags(prompt)
    taken = len(prompt) - len(found.words)
    assert taken >= sum(len(tag.text) for tag in found.tags)
    for tag in found.tags:
        assert tag.text in prompt
