"""A1111's infotext: known texts, what is written can be read, and no text takes long."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.pipeline.infotext import (
    Infotext,
    read_infotext,
    read_names,
    read_pairs,
    request_from_infotext,
    write_infotext,
    write_names,
)
from backend.request import GenerationRequest

PAIRS = json.loads((Path(__file__).parent / "data" / "infotext_pairs.json").read_text())
FULL = """a cat, (best quality:1.2)
  in the rain
Negative prompt: blurry
low quality
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 965400086, Size: 512x768, \
Model hash: 45dee52b00, Model: emulsion-tiny-v1, VAE: fine.safetensors, Clip skip: 2, Emphasis: No norm, RNG: CPU, \
Version: v1.10.1"""


@pytest.mark.parametrize(("line", "expected"), PAIRS, ids=lambda value: value[:30] if isinstance(value, str) else "")
def test_pairs_are_found_as_a1111_finds_them(line, expected):
    assert read_pairs(line) == [tuple(pair) for pair in expected]


def test_reads_prompts_of_several_lines_and_every_parameter():
    infotext = read_infotext(FULL)
    assert infotext.prompt == "a cat, (best quality:1.2)\nin the rain"
    assert infotext.negative_prompt == "blurry\nlow quality"
    assert infotext.parameters["Model"] == "emulsion-tiny-v1"
    assert list(infotext.parameters)[:4] == ["Steps", "Sampler", "Schedule type", "CFG scale"]
    assert infotext.sizes() == {"Size-1": "512", "Size-2": "768"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Infotext()),
        ("  \n\n ", Infotext()),
        ("a cat", Infotext(prompt="a cat")),
        ("a cat\nrating: safe, score: 9", Infotext(prompt="a cat\nrating: safe, score: 9")),
        ("Negative prompt: blurry", Infotext(negative_prompt="blurry")),
        ("cat\r\nNegative prompt: dog\r\n", Infotext(prompt="cat", negative_prompt="dog")),
        ("Steps: 1, Seed: 2, Size: 8x8", Infotext(parameters={"Steps": "1", "Seed": "2", "Size": "8x8"})),
        ("cat\nSteps: 1, Empty: , Seed: 2", Infotext(prompt="cat", parameters={"Steps": "1", "Seed": "2"})),
        ('x\nAa: "b\\"c, d", Bb: "{not json\\x", Cc: ""', Infotext(
            prompt="x", parameters={"Aa": 'b"c, d', "Bb": '"{not json\\x"', "Cc": ""})),
        ('x\nAa: "\\ud800", Bb: 1, Cc: 2', Infotext(prompt="x", parameters={"Aa": '"\\ud800"', "Bb": "1", "Cc": "2"})),
    ],
)  # fmt: skip
def test_reads_edge_cases(text, expected):
    assert read_infotext(text) == expected


def test_writes_the_text_that_others_read():
    parameters = {"Steps": 20, "Sampler": "Euler a", "Left out": None, "Hires prompt": 'a, "b"\nc', "Tiling": "Tiling"}
    assert write_infotext("a cat\nin rain", "blurry", parameters) == (
        'a cat\nin rain\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, Hires prompt: "a, \\"b\\"\\nc", Tiling'
    )


def test_writes_no_line_for_an_empty_negative_prompt():
    assert write_infotext("", "", {"Steps": 1}) == "Steps: 1"


@pytest.mark.parametrize("key", ["S", "", " Steps", "Ste:ps", "Ste,ps", 'a"b', "a\nb"])
def test_refuses_a_key_that_no_reader_would_find(key):
    with pytest.raises(ValueError, match="infotext key"):
        write_infotext("cat", "", {key: 1})


values = st.text(max_size=30) | st.sampled_from(
    ['"', '""', '"a"', " a ", "\\", 'a\\"', "a,b", "a:b", "é\n中", "5x5", "\x85"]
)
keys = st.from_regex(r"[A-Za-z0-9_][\w \-/]*[A-Za-z0-9]", fullmatch=True)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(parameters=st.dictionaries(keys, values, min_size=3, max_size=6))
def test_every_value_is_read_back(parameters):
    parameters = {key: value for key, value in parameters.items() if key != value} | {
        "Steps": "1",
        "Seed": "2",
        "Aa": "3",
    }
    written = write_infotext("a cat, blue: 3", "dog", parameters)
    assert read_infotext(written) == Infotext(prompt="a cat, blue: 3", negative_prompt="dog", parameters=parameters)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(names=st.lists(st.text(alphabet=st.sampled_from('ab: ,"\\\n-/x1é')), max_size=4))
def test_names_in_a_list_are_read_back(names):
    written = write_infotext("a cat", "", {"Steps": "1", "Seed": "2", "Aa": "3", "Names": write_names(names)})
    assert read_names(read_infotext(written).parameters["Names"]) == tuple(names)


def test_text_encoders_with_commas_are_restored():
    names = ("clip_l, fine-tuned", "t5xxl fp8")
    written = write_infotext("a cat", "", {"Steps": "1", "Seed": "2", "RNG": "NV", "Text encoders": write_names(names)})
    restored = request_from_infotext(read_infotext(written))
    assert restored.fields["text_encoders"] == names
    plain = read_infotext('a cat\nSteps: 1, Seed: 2, RNG: NV, Text encoders: "clip_l, t5xxl fp8"')
    assert request_from_infotext(plain).fields["text_encoders"] == ("clip_l", "t5xxl fp8")


@settings(deadline=None, derandomize=True, max_examples=400)
@given(text=st.text(alphabet=st.sampled_from('ab: ,"\\\n-/x1é'), max_size=80))
def test_writing_what_was_read_changes_nothing_more(text):
    once = read_infotext(text)
    if len(once.parameters) >= 3:
        written = write_infotext(once.prompt, once.negative_prompt, once.parameters)
        kept = {key: value for key, value in once.parameters.items() if key != value}
        assert read_infotext(written).parameters == kept or len(kept) < 3


HOSTILE = {
    "spaces": " ",
    "letters": "a",
    "colons": ":",
    "commas": ",",
    "quotes": '"',
    "backslashes": "\\",
    "newlines": "\n",
    "keys": "ab:",
    "open quotes": 'ab:"',
    "escaped quotes": 'ab:"\\"',
    "quotes without comma": 'ab:"c"d',
    "short keys": "a:,",
    "spaced colons": "a   :   ",
    "negative": "Negative prompt:\n",
    "hyphens": "-- /",
    "pairs": "ab: c, ",
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_64_kb_of_anything_are_read_in_no_time(unit):
    text = ("x" + unit * 65_536)[:65_536]
    best = min(_seconds(text) for _ in range(3))
    assert best < 0.05


def _seconds(text: str) -> float:
    start = time.thread_time()
    request_from_infotext(read_infotext(text))
    return time.thread_time() - start


def test_restores_a_request():
    fields, notices = request_from_infotext(read_infotext(FULL))
    assert notices == []
    assert fields == {
        "prompt": "a cat, (best quality:1.2)\nin the rain",
        "negative_prompt": "blurry\nlow quality",
        "steps": 20,
        "sampler": "DPM++ 2M",
        "schedule": "Karras",
        "guidance_scale": 7.5,
        "seed": 965400086,
        "width": 512,
        "height": 768,
        "checkpoint": "emulsion-tiny-v1",
        "vae": "fine.safetensors",
        "clip_skip": 2,
        "emphasis": "No norm",
        "noise_source": "CPU",
        "guidance_rescale": 0.0,
    }
    assert GenerationRequest(**fields).seed == 965400086


def test_fills_in_what_a1111_leaves_out_at_its_default():
    fields, _ = request_from_infotext(read_infotext("cat\nSteps: 9, Seed: 1, Model hash: 0123456789"))
    assert (fields["clip_skip"], fields["emphasis"], fields["noise_source"]) == (1, "Original", "NV")
    assert fields["checkpoint"] == "0123456789"


def test_a_bare_prompt_restores_nothing_but_prompts():
    fields, notices = request_from_infotext(read_infotext("a cat\nNegative prompt: dog"))
    assert fields == {"prompt": "a cat", "negative_prompt": "dog"}
    assert notices == []


def test_says_what_was_not_restored():
    text = "cat\nSteps: many, Seed: -5, Size: 513x512, CFG scale: nan, Tiling: 2, Clip skip: 1e9, Model: m"
    fields, notices = request_from_infotext(read_infotext(text))
    assert fields.keys() == {"prompt", "negative_prompt", "checkpoint", "guidance_rescale", "emphasis", "noise_source"}
    told = "\n".join(notices)
    for key in ("Steps: many", "Seed: -5", "Size: 513x512", "CFG scale: nan", "Tiling: 2", "Clip skip: 1e9"):
        assert key in told
    assert "multiple of 8" in told
