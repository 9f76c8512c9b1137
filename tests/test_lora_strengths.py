"""LoRAs in jobs that make pictures: how much of them is added, and what they leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.engine.engine import Engine
from backend.request import GenerationRequest
from backend.weights.hashing import sha256_of
from tests.lora_engine import lora_engine, pixels, row, run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loras")


@pytest.fixture(scope="module")
def engine(root: Path) -> Iterator[Engine]:
    with lora_engine(root) as engine:
        yield engine


def test_a_lora_changes_the_picture_and_leaves_nothing_behind(engine: Engine, root: Path) -> None:
    file = root / "models" / "checkpoints" / "tiny.safetensors"
    before = sha256_of(file)
    plain = pixels(run(engine))
    with_cat = pixels(run(engine, row("cat")))
    assert with_cat != plain
    assert pixels(run(engine)) == plain
    assert pixels(run(engine, row("cat"))) == with_cat
    assert sha256_of(file) == before


def test_the_order_of_loras_does_not_matter_and_one_that_is_there_twice_adds_up(engine: Engine) -> None:
    both = pixels(run(engine, row("cat", 0.7), row("dog", 0.3)))
    assert pixels(run(engine, row("dog", 0.3), row("cat", 0.7))) == both
    assert both not in (pixels(run(engine, row("cat", 0.7))), pixels(run(engine, row("dog", 0.3))))
    assert pixels(run(engine, row("cat", 0.5), row("cat", 0.5))) == pixels(run(engine, row("cat")))


def test_strength_0_is_no_lora_at_all_and_needs_no_file(engine: Engine) -> None:
    plain = pixels(run(engine))
    off = run(engine, row("cat", 0.0), row("not there", 0.0))
    assert pixels(off) == plain
    assert isinstance(off.request, GenerationRequest)
    assert [one.use.file.name for one in off.request.adapters] == ["cat", "not there"]
    assert off.adapters == ()


def test_text_encoders_have_a_strength_of_their_own(engine: Engine) -> None:
    plain, with_text = pixels(run(engine)), pixels(run(engine, row("text")))
    assert with_text != plain
    assert pixels(run(engine, row("text", 1.0, text_encoder_strength=0.0))) == plain
    assert pixels(run(engine, row("text", 0.3, text_encoder_strength=1.0))) == with_text
    with_cat = pixels(run(engine, row("cat")))
    assert pixels(run(engine, row("cat", text_encoder_strength=0.0))) == with_cat
