"""Prompts are cut into chunks of 75 tokens where A1111 cuts them."""

import pytest

from backend.text.chunks import CHUNK_LENGTH, CompiledPrompt, compile_chunks
from backend.text.clip_tokenizer import BEGIN_TEXT, END_TEXT, ClipTokenizer
from backend.text.emphasis import parse_emphasis


def compiled(text: str) -> CompiledPrompt:
    return compile_chunks(parse_emphasis(text), ClipTokenizer.load())


@pytest.mark.parametrize(
    ("text", "lengths", "count"),
    [
        ("", [0], 0),
        ("a photo of a cat", [5], 5),
        ("cat " * 75, [75], 75),
        ("cat " * 76, [75, 1], 76),
        ("a BREAK b", [1, 1], 76),
        ("BREAK", [0], 75),
        ("cat " * 59 + "," + "dog " * 20, [60, 20], 95),
        ("cat " * 55 + "," + "dog " * 25, [56, 25], 100),
        ("cat " * 54 + "," + "dog " * 25, [75, 5], 80),
        ("cat " * 74 + ", dog", [75, 1], 76),
        ("cat " * 75 + ", dog", [75, 2], 77),
    ],
)
def test_chunks_end_where_a1111_ends_them(text: str, lengths: list[int], count: int) -> None:
    prompt = compiled(text)
    assert [sum(t not in (BEGIN_TEXT, END_TEXT) for t in chunk.tokens) for chunk in prompt.chunks] == lengths
    assert prompt.num_tokens == count
    assert prompt.capacity == 75 * len(lengths)


def test_every_chunk_has_marks_and_padding() -> None:
    chunk = compiled("a photo of a cat").chunks[0]
    assert chunk.tokens[:8] == (BEGIN_TEXT, 320, 1125, 539, 320, 2368, END_TEXT, END_TEXT)
    assert len(chunk.tokens) == len(chunk.weights) == CHUNK_LENGTH


def test_tokens_carry_the_weight_of_their_segment() -> None:
    assert compiled("a (cat:1.3), dog").chunks[0].weights[:6] == (1.0, 1.0, 1.3, 1.0, 1.0, 1.0)


def test_a_moved_phrase_keeps_its_weights() -> None:
    prompt = compiled("cat " * 59 + ", (" + "dog " * 20 + ":0.5)")
    assert set(prompt.chunks[1].weights[1:21]) == {0.5}
    assert set(prompt.chunks[0].weights) == {1.0}


def test_64_kb_of_text_compile() -> None:
    prompt = compiled("word, " * 10_900)
    assert prompt.num_tokens > 20_000
    assert sum(len(chunk.tokens) for chunk in prompt.chunks) == CHUNK_LENGTH * len(prompt.chunks)
