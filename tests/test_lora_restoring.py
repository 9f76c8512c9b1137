"""Jobs with LoRAs that are made again: from their pictures, and by the journal."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from backend.engine.engine import Engine
from backend.http.security import Security
from backend.http.server import build_app
from backend.images.png_text import read_png_text
from backend.pipeline.infotext import read_infotext, request_from_infotext
from backend.request import GenerationRequest
from backend.weights.hashing import sha256_of
from tests.http_server import client_of
from tests.lora_engine import QUERY, TIMEOUT, lora_engine, pixels, request, row, run, settings_of, write_lora


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


def test_other_metadata_make_a_lora_no_other_one(engine: Engine, tmp_path: Path) -> None:
    view = run(engine, row("dog", 0.4), prompt="a cat<lora:cat:0.6>")
    exact = GenerationRequest.from_mapping(
        json.loads(read_png_text(view.images[0].path.read_bytes())["emulsion"])["request"]
    )
    for name in ("cat", "dog"):
        entry = engine.library.find_lora(name)
        before = sha256_of(entry.path)
        engine.library.edit_lora_metadata(entry, {"ss_output_name": "another name"})
        assert sha256_of(entry.path) != before
        entry.path.rename(entry.path.with_name(f"renamed {name}.safetensors"))
    engine.library.refresh()
    again = engine.wait(engine.submit(exact), TIMEOUT)
    assert pixels(again) == pixels(view)
    assert again.notices == ()


def test_other_tensors_of_the_same_name_are_told(engine: Engine, tmp_path: Path) -> None:
    exact = run(engine, row("dog", 0.4)).request
    write_lora(tmp_path, "dog", {QUERY: (16, 16)}, seed=99)
    engine.library.refresh()
    assert any("its contents differ" in notice for notice in engine.wait(engine.submit(exact), TIMEOUT).notices)


def test_a_queued_job_keeps_its_loras_over_a_restart(tmp_path: Path) -> None:
    with lora_engine(tmp_path, persistent=True) as engine:
        expected = pixels(run(engine, row("dog", 0.4), prompt="a cat<lora:cat:0.6>"))
        running = engine.submit(request(row("cat"), steps=1000))
        waiting = engine.submit(request(row("dog", 0.4), prompt="a cat<lora:cat:0.6>"))
        told = engine.job(waiting).adapters
    assert [one["file"]["name"] for one in told] == ["cat", "dog"]
    for name in ("cat", "dog"):
        path = tmp_path / "models" / "loras" / f"{name}.safetensors"
        path.rename(path.with_name(f"renamed {name}.safetensors"))
    engine = Engine.open(settings_of(tmp_path))
    try:
        engine.cancel(running)
        view = engine.wait(waiting, TIMEOUT)
        assert pixels(view) == expected
        assert [one["file"]["name"] for one in view.adapters] == ["renamed cat", "renamed dog"]
    finally:
        engine.close()


def test_tags_act_in_a1111_s_interface(engine: Engine) -> None:
    body = {"steps": 2, "seed": 5, "width": 64, "height": 64, "cfg_scale": 7, "sampler_name": "Euler"}

    def picture(client: TestClient, prompt: str) -> tuple[bytes, str]:
        answer = client.post("/sdapi/v1/txt2img", json={"prompt": prompt, **body})
        assert answer.status_code == 200, answer.text
        data = base64.b64decode(answer.json()["images"][0])
        return Image.open(io.BytesIO(data)).tobytes(), read_png_text(data)["parameters"]

    with client_of(build_app(engine, Security())) as client:
        plain, _ = picture(client, "a cat")
        tagged, text = picture(client, "a cat <lora:cat:0.8>")
        assert picture(client, "a cat <lora:cat:0>")[0] == picture(client, "a cat ")[0] == plain
        refused = client.post("/sdapi/v1/txt2img", json={"prompt": "a cat <lora:mouse:1>", **body})
    assert tagged != plain
    assert read_infotext(text).prompt == "a cat <lora:cat:0.8>"
    assert 400 <= refused.status_code < 500
    assert "mouse" in refused.text


def test_a_text_as_a1111_writes_it_finds_loras_by_their_hashes(engine: Engine, tmp_path: Path) -> None:
    digits = open_lora_hash(tmp_path, "cat")
    expected = pixels(run(engine, prompt="a cat <lora:cat:0.6>", sampler="euler", guidance_scale=7.0))
    path = tmp_path / "models" / "loras" / "cat.safetensors"
    path.rename(path.with_name("what it is called here.safetensors"))
    write_lora(tmp_path, "cat", {QUERY: (16, 16)}, seed=99)
    engine.library.refresh()
    text = (
        "a cat <lora:cat:0.6>\n"
        "Steps: 2, Sampler: Euler, Schedule type: Automatic, CFG scale: 7, Seed: 5, Size: 64x64, "
        f'Model hash: 0123456789, Model: tiny, RNG: GPU, Lora hashes: "cat: {digits}, unused: 0123456789ab", '
        "Version: v1.10.1"
    )
    restored = request_from_infotext(read_infotext(text))
    fields = {key: value for key, value in restored.fields.items() if key != "checkpoint"}
    view = engine.wait(engine.submit(GenerationRequest(**fields)), TIMEOUT)
    assert pixels(view) == expected
    assert view.adapters[0]["file"]["name"] == "what it is called here"


def open_lora_hash(folder: Path, name: str) -> str:
    content = (folder / "models" / "loras" / f"{name}.safetensors").read_bytes()
    return hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()[:12]
