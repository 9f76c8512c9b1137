"""Jobs with LoRAs that are made again: from their pictures, and by the journal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.engine.engine import Engine
from backend.images.png_text import read_png_text
from backend.pipeline.infotext import read_infotext, request_from_infotext
from backend.request import GenerationRequest
from tests.lora_engine import QUERY, TIMEOUT, lora_engine, pixels, row, run, write_lora


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with lora_engine(tmp_path) as engine:
        yield engine


def test_a_picture_gives_its_loras_back_also_from_renamed_files(engine: Engine, tmp_path: Path) -> None:
    view = run(engine, row("dog", 0.4), prompt="a cat<lora:cat:0.6>")
    texts = read_png_text(view.images[0].path.read_bytes())
    infotext = read_infotext(texts["parameters"])
    hashes = {name: open_lora_hash(tmp_path, name) for name in ("cat", "dog")}
    assert infotext.parameters["Lora hashes"] == f"cat: {hashes['cat']}, dog: {hashes['dog']}"
    for name in ("cat", "dog"):
        path = tmp_path / "models" / "loras" / f"{name}.safetensors"
        path.rename(path.with_name(f"renamed {name}.safetensors"))
    write_lora(tmp_path, "cat", {QUERY: (16, 16)}, seed=99)
    engine.library.refresh()
    exact = GenerationRequest.from_mapping(json.loads(texts["emulsion"])["request"])
    assert pixels(engine.wait(engine.submit(exact), TIMEOUT)) == pixels(view)
    restored = request_from_infotext(infotext)
    assert restored.notices == []
    again = GenerationRequest(**restored.fields)
    assert pixels(engine.wait(engine.submit(again), TIMEOUT)) == pixels(view)


def open_lora_hash(folder: Path, name: str) -> str:
    content = (folder / "models" / "loras" / f"{name}.safetensors").read_bytes()
    return hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()[:12]
