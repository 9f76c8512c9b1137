"""Checkpoints of every family, each with a LoRA and with what that LoRA adds in its weights, and pictures of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from backend.adapter_row import AdapterRow
from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView
from backend.recipe import AdapterUse, FileRef
from backend.request import GenerationRequest
from backend.weights.safetensors_file import write_safetensors
from tests.lora_engine import settings_of
from tests.tiny_adapters import lora_tensors
from tests.tiny_families import FAMILIES

TIMEOUT = 120
KOHYA_MLP = "text_model_encoder_layers_0_mlp_fc1"
MLP = "encoder.layers.0.mlp.fc1.weight"


@dataclass(frozen=True)
class Module:
    """What a LoRA names, and the tensor of the checkpoint that it stands for, or some rows of that."""

    name: str
    key: str
    first: int = 0
    end: int | None = None

    @property
    def rows(self) -> slice:
        return slice(self.first, self.end)


@contextmanager
def empty_engine(root: Path) -> Iterator[Engine]:
    """Without any files."""
    engine = Engine.open(settings_of(root), persistent=False)
    try:
        yield engine
    finally:
        engine.close()


def write_case(engine: Engine, family: str, modules: tuple[Module, ...], **metadata: str) -> None:
    """A checkpoint, a LoRA for some of its layers, and the checkpoint with that LoRA in it."""
    checkpoints, loras = engine.settings.checkpoint_dirs[0], engine.settings.lora_dirs[0]
    if (checkpoints / f"{family}.safetensors").exists():
        return
    tensors, said = FAMILIES[family]()
    lora = lora_of(tensors, modules)
    write(checkpoints / f"{family}.safetensors", tensors, said)
    write(checkpoints / f"{family} changed.safetensors", changed(tensors, lora, modules), said)
    write(loras / f"{family}.safetensors", lora, metadata)
    engine.library.refresh()


def lora_of(tensors: Mapping[str, Tensor], modules: tuple[Module, ...]) -> dict[str, Tensor]:
    shapes = {module.name: tuple(tensors[module.key][module.rows].shape) for module in modules}
    return lora_tensors(shapes, rank=2, alpha=2.0)


def changed(tensors: dict[str, Tensor], lora: Mapping[str, Tensor], modules: tuple[Module, ...]) -> dict[str, Tensor]:
    result = dict(tensors)
    for module in modules:
        weight = result[module.key].float().clone()
        up, down = (lora[f"{module.name}.lora_{side}.weight"] for side in ("up", "down"))
        weight[module.rows] += up @ down
        result[module.key] = weight.to(tensors[module.key].dtype)
    return result


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, {key: value.contiguous() for key, value in tensors.items()}, dict(metadata))


def picture(engine: Engine, checkpoint: str | None, *loras: str | AdapterRow, **fields: object) -> JobView:
    rows = tuple(
        AdapterRow(use=AdapterUse(file=FileRef(name=lora))) if isinstance(lora, str) else lora for lora in loras
    )
    values = {"prompt": "a cat", "steps": 2, "seed": 5, "width": 64, "height": 64, **fields}
    request = GenerationRequest(checkpoint=checkpoint, adapters=rows, **values)  # pyright: ignore[reportArgumentType]
    view = engine.wait(engine.submit(request), TIMEOUT)
    assert (view.state, view.error) == (JobState.DONE, "")
    return view


def difference(one: JobView, other: JobView) -> int:
    """The largest, of the numbers 0..255 of the pixels."""
    a, b = (np.asarray(Image.open(view.images[0].path), dtype=np.int16) for view in (one, other))
    return int(np.abs(a - b).max())


def check_family(engine: Engine, family: str, modules: tuple[Module, ...]) -> None:
    """A LoRA makes the picture of a checkpoint that holds it, with all of its modules."""
    write_case(engine, family, modules)
    plain, with_lora = picture(engine, family), picture(engine, family, family)
    expected = picture(engine, f"{family} changed")
    (facts,) = with_lora.adapters
    assert (facts["matched"], facts["modules"]) == (len(modules), len(modules))
    assert difference(with_lora, expected) <= 1
    assert difference(with_lora, plain) > 10
