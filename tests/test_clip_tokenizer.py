"""Our tokenizer gives the ids that transformers' CLIPTokenizer gives from the same vocabulary."""

import random
import string
import time

import pytest
from transformers import CLIPTokenizer

from backend.text.clip_tokenizer import BEGIN_TEXT, COMMA, END_TEXT, ClipTokenizer

TEXTS = [
    "a photo of a cat",
    "a photo of a cat, 4k",
    "",
    "   leading and   many\tspaces\n\nlines ",
    "It's what we've done; they'll say I'd, don't 's 't '",
    "naïve café — Ænima ÀÉÎÕÜ ß ſtraße",
    "日本語のプロンプト、猫 と 犬",
    "привет мир, ёлка",
    "emoji 😀👩‍👩‍👧 ❤️ 🇩🇪",
    "1girl, 8k uhd, f/1.8, 35mm, (masterpiece:1.2)",
    "x" * 300,
    "!!!???...--__==++",
    "<|endoftext|> inside <|startoftext|>",
    "e\u0301 combining \u0130 dotted I, \u1e9e",
    "١٢٣ ４５６ ² ½ Ⅷ",
    "&amp; &#39; <b>html</b>",
    "zero\u200bwidth and \xa0nbsp \u3000ideographic \x85 nel",
    "\x00\x01\x1c control \x7f",
]


def varied_prompts(count: int) -> list[str]:
    rng = random.Random(7)
    words = "red apple blue heart cinematic lighting portrait of an old man's hat masterpiece trending style".split()
    alphabets = [string.printable, "äöüßéèñçøåæœ", "абвгдежз", "日本語中文漢字", "😀🎨🖼️🌈", "αβγδε", "אבג", "हिन्दी"]

    def piece() -> str:
        if rng.random() < 0.6:
            return rng.choice(words)
        alphabet = rng.choice(alphabets)
        return "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 9)))

    def prompt() -> str:
        return "".join(piece() + rng.choice([" ", ", ", "", " - "]) for _ in range(rng.randint(1, 25)))

    return [prompt() for _ in range(count)]


@pytest.fixture(scope="module")
def ours() -> ClipTokenizer:
    return ClipTokenizer.load()


@pytest.fixture(scope="module")
def reference(ours: ClipTokenizer) -> CLIPTokenizer:
    merges = sorted(ours.ranks, key=lambda pair: ours.ranks[pair])
    return CLIPTokenizer(vocab=dict(ours.vocabulary), merges=merges)


def test_vocabulary_has_the_published_size_and_marks(ours):
    assert len(ours.vocabulary) == 49408
    assert (ours.vocabulary["<|startoftext|>"], ours.vocabulary["<|endoftext|>"]) == (BEGIN_TEXT, END_TEXT)
    assert ours.encode(",") == [COMMA]
    assert ours.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_the_reference_on_hard_texts(ours, reference, text):
    assert ours.encode(text) == reference(text, add_special_tokens=False)["input_ids"]


def test_ids_equal_the_reference_on_five_hundred_prompts(ours, reference):
    prompts = varied_prompts(500)
    expected = reference(prompts, add_special_tokens=False)["input_ids"]
    different = [prompt for prompt, ids in zip(prompts, expected, strict=True) if ours.encode(prompt) != ids]
    assert different == []


def test_a_single_word_of_sixty_four_kilobytes_takes_no_quadratic_time(ours, reference):
    rng = random.Random(1)
    word = "".join(rng.choice(string.ascii_lowercase) for _ in range(65_000))
    start = time.process_time()
    ids = ours.encode(word)
    assert time.process_time() - start < 5  # a quadratic merge takes minutes
    assert ids == reference(word, add_special_tokens=False)["input_ids"]
