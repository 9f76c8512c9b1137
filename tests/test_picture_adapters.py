"""LoRAs in jobs that make pictures: what they change, what they leave, and what is said about them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backend.adapter_row import AdapterRow
from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView
from backend.engine.settings import Settings
from backend.recipe import AdapterUse, FileRef
from backend.request import GenerationRequest
from backend.weights.hashing import sha256_of
from backend.weights.safetensors_file import write_safetensors
from tests.tiny_adapters import lora_tensors
from tests.tiny_checkpoint import write_tiny_checkpoint

TIMEOUT = 60
UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path / "models" / "checkpoints" / "tiny.safetensors")
    write_lora(tmp_path, "cat", {UNET: (16, 16)})
    write_lora(tmp_path, "dog", {UNET: (16, 16)}, seed=20)
    write_lora(tmp_path, "text", {TEXT: (32, 16)})
    return tmp_path


@pytest.fixture
def engine(root: Path) -> Iterator[Engine]:
    engine = Engine.open(settings_of(root), persistent=False)
    yield engine
    engine.close()


def settings_of(root: Path) -> Settings:
    return Settings.for_root(root, force_cpu=True, memory_budget=2**30)


def write_lora(root: Path, name: str, modules: dict[str, tuple[int, ...]], *, seed: int = 7) -> Path:
    path = root / "models" / "loras" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, lora_tensors(modules, seed=seed, alpha=2.0), {})
    return path


def row(name: str, strength: float = 1.0, **fields: Any) -> AdapterRow:
    return AdapterRow(use=AdapterUse(file=FileRef(name=name), strength=strength, **fields))


def request(*rows: AdapterRow, **fields: Any) -> GenerationRequest:
    return GenerationRequest(**{"prompt": "a cat", "steps": 2, "seed": 5, "adapters": rows, **fields})


def run(engine: Engine, *rows: AdapterRow, **fields: Any) -> JobView:
    return engine.wait(engine.submit(request(*rows, **fields)), TIMEOUT)


def pixels(view: JobView) -> bytes:
    assert (view.state, view.error) == (JobState.DONE, "")
    return Image.open(view.images[0].path).tobytes()


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
