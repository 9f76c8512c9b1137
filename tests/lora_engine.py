"""An engine with a small checkpoint and three LoRAs for it, and jobs that use them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from backend.adapter_row import AdapterRow
from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView
from backend.engine.settings import Settings
from backend.recipe import AdapterUse, FileRef
from backend.request import GenerationRequest
from backend.weights.safetensors_file import write_safetensors
from tests.tiny_adapters import lora_tensors
from tests.tiny_checkpoint import UNET, write_tiny_checkpoint

TIMEOUT = 60
QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
# Building the network anew takes most of the time of a tiny picture, so it is a shallow one.
SHALLOW = dataclasses.replace(UNET, channel_mult=(1,))


@contextmanager
def lora_engine(root: Path, *, persistent: bool = False) -> Iterator[Engine]:
    """With the checkpoint "tiny" and the LoRAs "cat" and "dog" for its network and "text" for its text encoder."""
    write_tiny_checkpoint(root / "models" / "checkpoints" / "tiny.safetensors", unet=SHALLOW)
    write_lora(root, "cat", {QUERY: (16, 16)})
    write_lora(root, "dog", {QUERY: (16, 16)}, seed=20)
    write_lora(root, "text", {TEXT: (32, 16)})
    engine = Engine.open(settings_of(root), persistent=persistent)
    try:
        yield engine
    finally:
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
