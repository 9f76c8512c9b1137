"""Every family from a single file to a saved picture, through the engine, on as little memory as there may be."""

from pathlib import Path

import pytest
from PIL import Image

from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView
from backend.engine.settings import Settings
from backend.request import GenerationRequest
from tests.tiny_families import FAMILIES, write_tiny_family

TIMEOUT = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    for name in FAMILIES:
        write_tiny_family(name, folder / "models" / "checkpoints" / f"{name}.safetensors")
    return folder


def picture(engine: Engine, name: str, **fields: object) -> JobView:
    values = {"prompt": "a (cat:1.2)", "checkpoint": name, "steps": 2, "seed": 5, "width": 64, "height": 64, **fields}
    return engine.wait(engine.submit(GenerationRequest.from_mapping(values)), TIMEOUT)


@pytest.fixture(scope="module")
def engine(folder: Path):
    engine = Engine.open(Settings.for_root(folder, force_cpu=True, memory_budget=2**30), persistent=False)
    yield engine
    engine.close()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_is_known_and_makes_a_picture_whose_text_makes_it_again(engine: Engine, name: str) -> None:
    entry = engine.library.find_checkpoint(name)
    assert entry.problem == ""
    assert entry.family == {"playground": "sdxl"}.get(name, name)
    view = picture(engine, name, negative_prompt="dog")
    assert (view.state, view.error) == (JobState.DONE, "")
    first = Image.open(view.images[0].path)
    assert first.size == (64, 64)
    again = engine.wait(engine.submit(view.request), TIMEOUT)
    assert Image.open(again.images[0].path).tobytes() == first.tobytes()


@pytest.mark.parametrize("name", FAMILIES)
def test_defaults_say_why(engine: Engine, name: str) -> None:
    facts = engine.describe_checkpoint(name)
    assert facts.defaults.sampler in engine.catalog.samplers
    assert name == "sd1" or facts.defaults.reason


def test_the_refiner_finishes_an_sdxl_picture(engine: Engine) -> None:
    plain, refined = picture(engine, "sdxl", steps=5), picture(engine, "sdxl", steps=5, refiner="sdxl-refiner")
    assert (refined.state, refined.error) == (JobState.DONE, "")
    assert Image.open(plain.images[0].path).tobytes() != Image.open(refined.images[0].path).tobytes()


def test_a_refiner_of_other_latents_is_refused(engine: Engine) -> None:
    view = picture(engine, "flux", refiner="sdxl-refiner")
    assert (view.state, view.error_kind) == (JobState.FAILED, "RequestError")
    assert "refiner" in view.error


@pytest.mark.parametrize("name", FAMILIES)
def test_whether_a_job_fits_is_known_before_anything_is_loaded(engine: Engine, name: str) -> None:
    engine.free_memory()
    small = engine.will_it_fit(GenerationRequest(checkpoint=name, width=64, height=64))
    large = engine.will_it_fit(GenerationRequest(checkpoint=name, width=256, height=256, batch_size=2))
    assert engine.memory().used == 0
    assert small.fits
    assert large.fits
    assert 0 < small.working < large.working
    assert small.text.startswith("Fits: ")


@pytest.mark.parametrize(
    ("first", "second"), [("sd1", "sdxl"), ("sdxl", "playground"), ("sdxl", "flux"), ("flux", "sd1"), ("sd3", "sd3")]
)
@pytest.mark.parametrize("upscaler", ["latent", "lanczos"])
def test_another_model_makes_the_second_pass_whatever_its_latents_are(
    engine: Engine, first: str, second: str, upscaler: str
) -> None:
    hires = {"checkpoint": second, "scale": 1.3, "upscaler": upscaler, "denoising_strength": 0.5}
    view = picture(engine, first, hires=hires)
    assert (view.state, view.error) == (JobState.DONE, "")
    width, height = Image.open(view.images[0].path).size
    step = engine.describe_checkpoint(second).description.size_step
    assert width == height == int(64 * 1.3) // step * step
