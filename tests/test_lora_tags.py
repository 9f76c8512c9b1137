"""LoRAs in jobs that make pictures: what tags of the prompt and weights by block say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.engine.engine import Engine
from backend.errors import RequestError
from backend.recipe import Override, Weights
from tests.lora_engine import lora_engine, pixels, request, row, run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loras")


@pytest.fixture(scope="module")
def engine(root: Path) -> Iterator[Engine]:
    with lora_engine(root) as engine:
        yield engine


def test_tags_of_the_prompt_are_rows_and_no_words(engine: Engine) -> None:
    by_row = pixels(run(engine, row("cat", 0.5), row("text", 0.8)))
    tagged = run(engine, prompt="a cat<lora:cat:0.5><lora:text:0.8>")
    assert pixels(tagged) == by_row
    assert pixels(run(engine, row("text", 0.8), prompt="a <lora:cat:0.5>cat")) == by_row
    assert tagged.images[0].infotext.startswith("a cat<lora:cat:0.5><lora:text:0.8>\n")
    assert engine.count_tokens("a cat<lora:cat:0.5>") == engine.count_tokens("a cat")


def test_tags_say_in_which_steps_and_blocks_a_lora_is_added(engine: Engine) -> None:
    def picture(arguments: str) -> bytes:
        return pixels(run(engine, prompt=f"a cat<lora:cat:1:{arguments}>", steps=3))

    plain, always = pixels(run(engine, steps=3)), pixels(run(engine, row("cat"), steps=3))
    assert plain != always
    assert picture("stop=3") == picture("unet=1@0,1@1") == picture("lbw=INS") == always
    assert picture("start=3") == picture("unet=0@0,0@1") == picture("lbw=OUTS") == plain
    changing = {picture("stop=1"), picture("start=1"), picture("unet=1@0,0@1"), picture("unet=0@0,1@1"), plain, always}
    assert len(changing) == 6


def test_tags_of_the_negative_prompt_have_no_effect_and_are_told(engine: Engine) -> None:
    plain = pixels(run(engine, negative_prompt="blurry "))
    view = run(engine, negative_prompt="blurry <lora:cat:1>")
    assert pixels(view) == plain
    assert any("<lora:cat:1> stands in the negative prompt" in notice for notice in view.notices)


def test_weights_by_block_are_factors(engine: Engine) -> None:
    plain, half = pixels(run(engine)), pixels(run(engine, row("cat", 0.5)))
    here = Override(value=0.5, blocks=("IN01",))
    assert pixels(run(engine, row("cat", weights=Weights(base=0.0, overrides=(here,))))) == half
    assert pixels(run(engine, row("cat", weights=Weights(base=0.0)))) == plain
    assert pixels(run(engine, prompt="a cat<lora:cat:1:lbw=0,0.5,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0>")) == half
    assert pixels(run(engine, prompt="a cat<lora:cat:1:lbw=OUTALL>")) == plain
    with pytest.raises(RequestError, match="ZZ"):
        engine.submit(request(row("cat", weights=Weights(base=1.0, overrides=(Override(value=1.0, blocks=("ZZ",)),)))))
