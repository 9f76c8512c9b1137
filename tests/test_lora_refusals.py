"""LoRAs in jobs that make pictures: what is missing, does not fit, or fits in parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from backend.engine.engine import Engine
from backend.errors import AdapterDoesNotFit, AmbiguousName, BadCheckpoint, UnknownName
from backend.http.job_json import job_json
from backend.images.png_text import read_png_text
from backend.weights.hashing import sha256_of
from backend.weights.safetensors_file import write_safetensors
from tests.lora_engine import QUERY, SHALLOW, lora_engine, pixels, request, row, run, write_lora
from tests.tiny_adapters import lora_tensors
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with lora_engine(tmp_path) as engine:
        yield engine


def test_what_is_not_there_refuses_the_job_unless_it_may_be_missing(engine: Engine) -> None:
    with pytest.raises(UnknownName, match=r'no LoRA named "mouse".*cat, dog, text'):
        engine.submit(request(row("mouse")))
    with pytest.raises(UnknownName, match="mouse"):
        engine.submit(request(prompt="a cat<lora:mouse:1>"))
    view = run(engine, row("mouse"), prompt="a cat<lora:mouse:1>", skips_missing_adapters=True)
    assert pixels(view) == pixels(run(engine))
    assert any("is made without mouse" in notice for notice in view.notices)
    exact = json.loads(read_png_text(view.images[0].path.read_bytes())["emulsion"])
    assert exact["adapters"]["skipped"] == ["mouse", "mouse"]


def test_ambiguous_names_list_what_they_could_mean(engine: Engine, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_lora(tmp_path, f"{folder}/bird", {QUERY: (16, 16)}, seed=ord(folder))
    engine.library.refresh()
    with pytest.raises(AmbiguousName, match="a/bird, b/bird"):
        engine.submit(request(prompt="<lora:bird:1>"))
    assert pixels(run(engine, prompt="a cat<lora:a/bird:1>")) != pixels(run(engine, prompt="a cat<lora:b/bird:1>"))


def test_what_cannot_be_used_is_refused_before_it_is_queued(engine: Engine, tmp_path: Path) -> None:
    write_lora(tmp_path, "xl", {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (64, 2048)})
    write_lora(tmp_path, "nothing", {"lora_unet_some_other_layer": (16, 16)})
    tensors = lora_tensors({QUERY: (16, 16)})
    tensors[f"{QUERY}.lora_up.weight"][0] = torch.nan
    write_safetensors(tmp_path / "models" / "loras" / "nan.safetensors", tensors, {})
    engine.library.refresh()
    with pytest.raises(AdapterDoesNotFit, match=r"made for sdxl models and this one is sd1"):
        engine.submit(request(row("xl")))
    with pytest.raises(BadCheckpoint, match=r"no numbers .*lora_up"):
        engine.submit(request(row("nan")))
    with pytest.raises(AdapterDoesNotFit, match="0 of its 1 modules fit"):
        engine.submit(request(prompt="<lora:nothing:1>"))
    assert engine.jobs() == []


def test_what_fits_in_parts_is_told_and_recorded(engine: Engine, tmp_path: Path) -> None:
    write_lora(tmp_path, "partly", {QUERY: (16, 16), "lora_unet_some_other_layer": (16, 16)})
    engine.library.refresh()
    view = run(engine, row("partly", 0.5))
    assert any("LoRA partly: 1 of 2 modules fit" in notice for notice in view.notices)
    exact = json.loads(read_png_text(view.images[0].path.read_bytes())["emulsion"])["adapters"]["acting"][0]
    assert (exact["matched"], exact["modules"], exact["strength"], exact["ranks"]) == (1, 2, 0.5, [2, 2])
    assert exact["file"]["sha256"] == sha256_of(tmp_path / "models" / "loras" / "partly.safetensors")
    assert job_json(view, tmp_path / "outputs")["adapters"] == [exact]
    report = engine.adapter_report("partly")
    assert (report.num_matched, report.num_modules) == (1, 2)


def test_what_unpacks_layers_of_a_packed_model_is_told_with_its_cost(engine: Engine, tmp_path: Path) -> None:
    packed = tmp_path / "models" / "checkpoints" / "packed.safetensors"
    write_tiny_checkpoint(packed, unet=SHALLOW, dtype=torch.float8_e4m3fn)
    loras = tmp_path / "models" / "loras"
    write_safetensors(loras / "whole.safetensors", {f"{QUERY}.diff": torch.full((16, 16), 0.01).half()}, {})
    narrow = lora_tensors({QUERY: (16, 16)}, rank=1)
    write_safetensors(loras / "narrow.safetensors", {key: value.half() for key, value in narrow.items()}, {})
    engine.library.refresh()

    def told(name: str) -> list[str]:
        asked = request(row(name), checkpoint="packed")
        return [notice for notice in engine.plan(asked).notices if "Packed layers" in notice]

    (notice,) = told("whole")
    assert notice.startswith("LoRA whole: Packed layers of the model (1) are kept in float16 while it acts")
    assert notice.endswith(" MiB more memory.")
    (facts,) = engine.plan(request(row("whole"), checkpoint="packed")).adapters.facts()["acting"]
    assert any("packed" in text.lower() for text in facts["notices"])
    assert told("narrow") == []  # a narrow product stays beside the packed weight
    assert engine.plan(request(row("whole"), checkpoint="tiny")).notices == ()
