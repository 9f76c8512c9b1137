"""Which files the engine uses for a job, next to the checkpoint: encoders and VAEs that it finds, shares or leaves."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView
from backend.engine.settings import Settings
from backend.errors import RequestError
from backend.request import GenerationRequest
from backend.weights.safetensors_file import write_safetensors
from tests.tiny_families import FAMILIES, write_tiny_family

T5 = "text_encoders.t5xxl."


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tiny_family("pixart", tmp_path / "models" / "checkpoints" / "base.safetensors")
    return tmp_path


def opened(root: Path) -> Engine:
    return Engine.open(Settings.for_root(root, force_cpu=True, memory_budget=2**30), persistent=False)


@pytest.fixture
def engine(root: Path) -> Iterator[Engine]:
    engine = opened(root)
    yield engine
    engine.close()


def request(**fields: object) -> GenerationRequest:
    return GenerationRequest.from_mapping({"prompt": "a cat", "steps": 2, "seed": 5, "checkpoint": "base", **fields})


def run(engine: Engine, **fields: object) -> JobView:
    engine.library.refresh()
    return engine.wait(engine.submit(request(**fields)), 120)


def write_refiner(root: Path, *, lacks: tuple[str, ...]) -> dict[str, Tensor]:
    """A second model without the keys that begin with `lacks`, which are returned.

    It is of PixArt's kind, because files of T5 are known by their names, and those of CLIP by their published width.
    """
    tensors, metadata = FAMILIES["pixart"]()
    kept = {key: value.contiguous() for key, value in tensors.items() if not key.startswith(lacks)}
    path = root / "models" / "checkpoints" / "refiner.safetensors"
    write_safetensors(path, kept, metadata)
    return {key: value.contiguous() for key, value in tensors.items() if key not in kept}


def write_encoder(root: Path, name: str, tensors: dict[str, Tensor]) -> Path:
    path = root / "models" / "text_encoders" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, {key.removeprefix(T5): value for key, value in tensors.items()})
    return path


def test_a_refiner_without_an_encoder_reads_with_a_file_of_its_kind(engine: Engine, root: Path) -> None:
    write_refiner(root, lacks=())
    whole = run(engine, refiner="refiner", refiner_switch=0.5)
    encoder = write_refiner(root, lacks=(T5,))
    engine.library.refresh()
    with pytest.raises(RequestError, match=r"refiner\.safetensors needs a T5-XXL text encoder"):
        engine.submit(request(refiner="refiner"))
    write_encoder(root, "big", encoder)
    completed = run(engine, refiner="refiner", refiner_switch=0.5)
    assert completed.state is JobState.DONE
    assert Image.open(completed.images[0].path).tobytes() == Image.open(whole.images[0].path).tobytes()


def test_the_encoder_of_the_first_model_is_also_the_refiners(engine: Engine, root: Path) -> None:
    encoder = write_refiner(root, lacks=(T5,))
    write_encoder(root, "a", encoder)
    write_encoder(root, "b", encoder)
    engine.library.refresh()
    plan = engine.plan(request(refiner="refiner", text_encoders=["b"]))
    assert plan.refiner is not None
    assert plan.refiner.model.text_encoders == ("b",)
    alone = engine.plan(request(refiner="refiner"))
    assert alone.refiner is not None
    assert alone.refiner.model.text_encoders == ("a",)


def test_a_refiner_that_comes_second_needs_no_vae(engine: Engine, root: Path) -> None:
    write_refiner(root, lacks=())
    whole = run(engine, refiner="refiner", refiner_switch=0.5)
    write_refiner(root, lacks=("vae.",))
    second = run(engine, refiner="refiner", refiner_switch=0.5)
    assert second.state is JobState.DONE
    assert Image.open(second.images[0].path).tobytes() == Image.open(whole.images[0].path).tobytes()
    with pytest.raises(RequestError, match="holds no autoencoder"):
        engine.submit(request(checkpoint="refiner"))


@pytest.mark.parametrize("where", ["encoder", "refiner"])
def test_a_damaged_encoder_or_refiner_is_named(engine: Engine, root: Path, where: str) -> None:
    encoder = write_refiner(root, lacks=(T5,))
    path = write_encoder(root, "big", encoder)
    if where == "encoder":
        key = next(key for key in encoder if key.endswith("final_layer_norm.weight"))
        write_encoder(root, "big", encoder | {key: torch.full_like(encoder[key], torch.nan)})
    else:
        path = root / "models" / "checkpoints" / "refiner.safetensors"
        tensors, metadata = FAMILIES["pixart"]()
        key = "final_layer.linear.bias"
        write_safetensors(path, {**tensors, key: torch.full_like(tensors[key], torch.nan)}, metadata)
    view = run(engine, refiner="refiner", refiner_switch=0.5)
    assert (view.state, view.error_kind) == (JobState.FAILED, "NumericalError")
    assert f"{path.name} holds values that are not numbers" in view.error


def test_an_encoder_of_another_family_is_told_kept_in_the_request_and_not_in_the_text(
    engine: Engine, root: Path
) -> None:
    encoder = write_refiner(root, lacks=(T5,))
    write_encoder(root, "big", encoder)
    write_tiny_family("sd1", root / "models" / "checkpoints" / "small.safetensors")
    plain = run(engine, checkpoint="small")
    view = run(engine, checkpoint="small", text_encoders=["big"])
    told = "The text encoder big is T5-XXL; small.safetensors reads CLIP-L, so it was not used."
    assert view.state is JobState.DONE
    assert view.notices == (told,)
    assert isinstance(view.request, GenerationRequest)
    assert view.request.text_encoders == ("big",)  # as it waits in the journal, from where it is told again
    assert "big" not in view.images[0].infotext
    assert Image.open(view.images[0].path).tobytes() == Image.open(plain.images[0].path).tobytes()
