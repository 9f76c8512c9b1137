"""Emphasis and BREAK read as A1111 reads them, in linear time; weights act as each mode says."""

import json
from pathlib import Path

import pytest
import torch

from backend.text.emphasis import BUILTIN, Break, Segment, parse_emphasis, restore_mean, scale_states, whole_text

VECTORS = json.loads((Path(__file__).parent / "data" / "attention_vectors.json").read_text())["attention"]


def as_vector(text: str) -> list[list[object]]:
    return [["BREAK"] if isinstance(s, Break) else [s.text, s.weight] for s in parse_emphasis(text)]


@pytest.mark.parametrize(("text", "expected"), [v for v in VECTORS if isinstance(v[1], list)])
def test_every_vector_of_a1111_is_read_alike(text: str, expected: list[list[object]]) -> None:
    """A BREAK whose weight is not -1 is a word there, which is a known fault; here it is a BREAK."""
    assert as_vector(text) == [
        ["BREAK"] if part == "BREAK" and weight < 0 else [part, weight] for part, weight in expected
    ]


@pytest.mark.parametrize(("text", "weight"), [("(a:1.2.3)", 1.1), ("(a:.)", 1.1), ("(a:1..2)", 1.1)])
def test_a_weight_that_is_no_number_is_text(text: str, weight: float) -> None:
    assert parse_emphasis(text) == (Segment(text[1:-1], weight),)


def test_brackets_deeper_than_the_limit_are_text() -> None:
    segments = parse_emphasis("(" * 100 + "a" + ")" * 100)
    assert "".join(segment.text for segment in segments if isinstance(segment, Segment)) == "(" * 36 + "a" + ")" * 36
    assert isinstance(segments[0], Segment)
    assert segments[0].weight == pytest.approx(1.1**64)


@pytest.mark.parametrize("unit", ["(", "(a", "(a:", "[(a)]", "BREAK ", "a:", "\\", "(a:1.1)", " ", "[a](b:0.5"])
def test_64_kb_of_anything_are_read(unit: str) -> None:
    assert parse_emphasis((unit * 65_536)[:65_536])


def test_original_keeps_the_mean_of_the_chunk() -> None:
    states = torch.randn(1, 77, 8, generator=torch.Generator().manual_seed(0)) + 0.3
    weights = torch.ones(77)
    weights[3:6] = 1.5
    weighted = restore_mean(states, weights)
    assert weighted.mean().item() == pytest.approx(states.mean().item(), rel=1e-5)
    assert (weighted[0, 3] / weighted[0, 0]).allclose(1.5 * states[0, 3] / states[0, 0])


def test_original_leaves_a_vanishing_mean_alone() -> None:
    states = torch.ones(1, 2, 4)
    assert restore_mean(states, torch.tensor([1.0, -1.0])).isfinite().all()


def test_no_norm_only_multiplies() -> None:
    assert scale_states(torch.ones(1, 2, 3), torch.tensor([1.0, 2.0]))[0, 1].tolist() == [2.0, 2.0, 2.0]


def test_ignore_reads_brackets_and_none_does_not() -> None:
    modes = {mode.name: mode for mode in BUILTIN}
    assert modes["ignore"].parse("(a)") == (Segment("a", 1.1),)
    assert modes["none"].parse is whole_text
    assert whole_text("(a) BREAK b") == (Segment("(a) BREAK b", 1.0),)
    states, weights = torch.randn(1, 77, 4), torch.full((77,), 1.3)
    assert torch.equal(modes["ignore"].apply(states, weights), states)
