"""Jobs that begin with pictures or go on after a first pass: planned whole, refused by name, made again to the bit."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView
from backend.errors import RequestError, UnknownName, UnknownPicture
from backend.images.detector import Detector
from backend.images.png_text import read_png_text
from backend.request import GenerationRequest
from tests.test_engine import TIMEOUT, settings_in
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    root = tmp_path_factory.mktemp("root")
    for name in ("tiny", "other"):
        write_tiny_checkpoint(root / "models" / "checkpoints" / f"{name}.safetensors")
    engine = Engine.open(settings_in(root))
    yield engine
    engine.close()


def stored(engine: Engine, image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return engine.pictures.add(file.getvalue()).sha256


@pytest.fixture(scope="module")
def picture(engine: Engine) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    return stored(engine, Image.fromarray(pixels))


@pytest.fixture(scope="module")
def mask(engine: Engine) -> str:
    image = Image.new("L", (90, 70))
    ImageDraw.Draw(image).rectangle((30, 20, 60, 50), fill=255)
    return stored(engine, image)


def request(**fields: object) -> GenerationRequest:
    return GenerationRequest.from_mapping(
        {"prompt": "a cat", "checkpoint": "tiny", "steps": 2, "seed": 5, "sampler": "euler", **fields}
    )


def run(engine: Engine, **fields: object) -> JobView:
    return engine.wait(engine.submit(request(**fields)), TIMEOUT)


def exact(path: Path) -> GenerationRequest:
    """The request that a picture says it was made by."""
    return GenerationRequest.from_mapping(json.loads(read_png_text(path.read_bytes())["emulsion"])["request"])


def everything(picture: str, mask: str) -> dict[str, object]:
    return {
        "init": {"picture": picture, "denoising_strength": 0.9, "mask": {"picture": mask, "blur": 2}},
        "hires": {"upscaler": "latent", "scale": 1.5, "denoising_strength": 0.6, "prompt": "a large cat"},
        "detailers": [{"rectangles": [{"x": 8, "y": 8, "width": 32, "height": 32}], "denoising_strength": 0.7}],
    }


def test_any_result_is_made_again_from_what_it_says(engine: Engine, picture: str, mask: str) -> None:
    view = run(engine, **everything(picture, mask))
    assert (view.state, view.error) == (JobState.DONE, "")
    path = view.images[0].path
    again = engine.wait(engine.submit(exact(path)), TIMEOUT)
    assert again.images[0].path.read_bytes() == path.read_bytes()


def test_the_picture_before_hires_fix_is_kept_and_is_made_again_by_its_own_metadata(engine: Engine) -> None:
    view = run(engine, hires={"scale": 1.5, "denoising_strength": 0.5})
    image = view.images[0]
    assert (image.width, image.height) == Image.open(image.path).size == (96, 96)
    assert image.before_hires is not None
    assert Image.open(image.before_hires).size == (64, 64)
    again = engine.wait(engine.submit(exact(image.before_hires)), TIMEOUT)
    assert Image.open(again.images[0].path).tobytes() == Image.open(image.before_hires).tobytes()


@pytest.mark.parametrize(
    ("init", "size"),
    [
        ({}, (88, 72)),  # its own, at whole latents
        ({"borders": {"left": 10, "bottom": 20}}, (104, 96)),  # with borders, rounded up
        ({"mask": {"area": "masked"}}, (64, 64)),  # the model's own for the masked area
    ],
)
def test_the_size_follows_the_picture_where_none_is_asked_for(
    engine: Engine, picture: str, mask: str, init: dict[str, dict[str, object]], size: tuple[int, int]
) -> None:
    fields = {"picture": picture, **init}
    if "mask" in init:
        fields["mask"] = {"picture": mask, **init["mask"]}
    plan = engine.plan(request(init=fields))
    assert (plan.width, plan.height) == size
    asked = engine.plan(request(init=fields, width=128, height=64))
    assert (asked.width, asked.height) == (128, 64)


def test_a_second_pass_has_what_it_asks_for_and_else_what_the_first_has(engine: Engine) -> None:
    first = {"guidance_scale": 3, "schedule": "karras", "negative_prompt": "dog"}
    plain = engine.plan(request(**first, hires={"scale": 2})).hires
    assert plain is not None
    found = plain.plan
    assert (found.width, found.height, found.steps, found.sampler.name) == (128, 128, 2, "euler")
    assert (found.schedule.name, found.guidance_scale, found.words, found.negative_words) == (
        "karras",
        3,
        "a cat",
        "dog",
    )
    hires = {
        "width": 96,
        "height": 72,
        "steps": 7,
        "sampler": "heun",
        "schedule": "simple",
        "guidance_scale": 9,
        "prompt": "another",
        "negative_prompt": "bird",
        "checkpoint": "other",
        "upscaler": "Latent (nearest-exact)",
    }
    asked = engine.plan(request(**first, hires=hires)).hires
    assert asked is not None
    other = asked.plan
    assert asked.latent_upscaler is not None
    assert asked.latent_upscaler.mode == "nearest-exact"
    assert (other.width, other.height, other.steps, other.sampler.name) == (96, 72, 7, "heun")
    assert (other.schedule.name, other.guidance_scale, other.words) == ("simple", 9, "another")
    assert (other.negative_words, other.model.checkpoint) == ("bird", "other")


def test_details_are_made_at_the_size_of_the_model_or_the_one_asked_for(engine: Engine) -> None:
    rectangle = {"x": 0, "y": 0, "width": 8, "height": 8}
    detailers = [
        {"rectangles": [rectangle]},
        {"rectangles": [rectangle], "size": 100, "prompt": "an eye", "steps": 9},
        {"rectangles": [rectangle], "is_on": False},
    ]
    found = engine.plan(request(width=128, detailers=detailers)).details
    assert [(one.plan.width, one.plan.height, one.plan.steps, one.plan.words) for one in found] == [
        (64, 64, 2, "a cat"),
        (96, 96, 9, "an eye"),
    ]


def test_a_detector_of_an_extension_finds_the_regions(engine: Engine) -> None:
    def middle(picture: Image.Image) -> list[Image.Image]:
        mask = Image.new("L", picture.size)
        ImageDraw.Draw(mask).rectangle((16, 16, 47, 47), fill=255)
        return [mask]

    engine.catalog.detectors.add(Detector(name="middle", label="Middle", find=middle))
    try:
        plain = np.asarray(Image.open(run(engine).images[0].path))
        view = run(engine, detailers=[{"detector": "middle", "blur": 0, "denoising_strength": 1}])
        changed = (np.asarray(Image.open(view.images[0].path)) != plain).any(axis=-1)
    finally:
        engine.catalog.detectors.remove("middle")
    assert changed[16:48, 16:48].any()
    changed[16:48, 16:48] = False
    assert not changed.any()


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ({"init": {"picture": "0" * 64}}, UnknownPicture, "000"),
        ({"init": {"picture": "cat.png"}}, RequestError, "init.picture"),
        ({"init": {"picture": "1" * 64, "denoising_strength": 1.5}}, RequestError, "init.denoising_strength"),
        ({"init": {"picture": "1" * 64, "mask": {"picture": "2" * 64, "blur": -1}}}, RequestError, "init.mask.blur"),
        ({"init": {"picture": "1" * 64, "no_such": 1}}, RequestError, "init.no_such"),
        ({"init": 5}, RequestError, "init"),
        ({"hires": {"upscaler": "no such"}}, UnknownName, "latent_bicubic"),  # what there is
        ({"hires": {"checkpoint": "no such"}}, UnknownName, "no such"),
        ({"hires": {"sampler": "no such"}}, UnknownName, "no such"),
        ({"hires": {"scale": 0.5}}, RequestError, "hires.scale"),
        ({"hires": {"width": 20_000}}, RequestError, "hires.width"),
        ({"tiles": {"size": 130}}, RequestError, "tiles.size"),
        ({"tiles": {"method": "no such"}}, RequestError, "multidiffusion"),
        ({"detailers": [{}]}, RequestError, "detailers[0]"),
        ({"detailers": [{"detector": "faces"}]}, UnknownName, "faces"),
        ({"detailers": [{"mask": "3" * 64}]}, UnknownPicture, "333"),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_queued(
    engine: Engine, fields: dict[str, object], error: type[Exception], named: str
) -> None:
    jobs = len(engine.jobs())
    with pytest.raises(error) as refusal:
        engine.submit(request(**fields))
    assert named in str(refusal.value)
    assert len(engine.jobs()) == jobs


def test_an_upscaler_for_the_picture_to_begin_with_must_be_there(engine: Engine, picture: str) -> None:
    with pytest.raises(UnknownName, match="no such"):
        engine.submit(request(init={"picture": picture, "upscaler": "no such"}))


def test_whether_it_fits_counts_the_second_pass(engine: Engine) -> None:
    plain = engine.will_it_fit(request())
    larger = engine.will_it_fit(request(hires={"scale": 8}))
    assert larger.working > plain.working


def test_a_picture_that_went_missing_is_told_by_the_job(engine: Engine) -> None:
    gone = stored(engine, Image.new("RGB", (64, 64), (1, 2, 3)))
    blocker = engine.submit(request(batch_count=4, steps=20))
    waiting = engine.submit(request(init={"picture": gone}))
    engine.pictures.path(gone).unlink()
    engine.cancel(blocker)
    view = engine.wait(waiting, TIMEOUT)
    assert view.state is JobState.FAILED
    assert view.error_kind == "UnknownPicture"


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (513, 37)])
def test_pictures_of_odd_sizes_are_made_at_a_possible_one(engine: Engine, size: tuple[int, int]) -> None:
    name = stored(engine, Image.new("RGB", size, (200, 30, 30)))
    view = run(engine, init={"picture": name, "denoising_strength": 0.5})
    assert (view.state, view.error) == (JobState.DONE, "")
    assert view.images[0].width % 8 == view.images[0].height % 8 == 0


def test_a_second_pass_on_a_masked_area_enlarges_the_whole_picture(engine: Engine, picture: str, mask: str) -> None:
    area = {"picture": picture, "mask": {"picture": mask, "area": "masked", "padding": 8}}
    for upscaler in ("latent", "lanczos"):
        view = run(engine, init=area, hires={"scale": 1.5, "upscaler": upscaler, "denoising_strength": 0.5})
        assert (view.state, view.error) == (JobState.DONE, "")
        assert (view.images[0].width, view.images[0].height) == (128, 104)  # 90 x 70, at whole latents
        assert view.images[0].before_hires is not None
        assert Image.open(view.images[0].before_hires).size == (90, 70)


def test_a_latent_upscaler_is_used_where_something_was_put_around_what_was_made(
    engine: Engine, picture: str, mask: str
) -> None:
    init = {"picture": picture, "mask": {"picture": mask}}
    pictures = {
        Image.open(run(engine, init=init, hires={"scale": 1.5, "upscaler": name}).images[0].path).tobytes()
        for name in ("latent", "latent_nearest", "lanczos")
    }
    assert len(pictures) == 3


@pytest.mark.parametrize(("hires", "named"), [({"scale": 8}, "hires.scale"), ({"width": 8000}, "hires.scale")])
def test_a_second_pass_that_is_too_large_is_refused_by_its_own_name(
    engine: Engine, hires: dict[str, object], named: str
) -> None:
    with pytest.raises(RequestError, match=named):
        engine.plan(request(width=1024, height=1024, hires=hires))


def test_a_first_picture_that_cannot_be_written_costs_no_finished_one(engine: Engine) -> None:
    last = run(engine).images[0].path
    number = int(last.name.partition("-")[0]) + 1
    (last.parent / f"{number:05}-5-before-hires.png").mkdir()  # in its place
    view = run(engine, hires={"scale": 1.5, "denoising_strength": 0.5})
    assert (view.state, view.error) == (JobState.DONE, "")
    assert view.images[0].path.name == f"{number:05}-5.png"
    assert view.images[0].before_hires is None
    assert any("before hires fix was not kept" in notice for notice in view.notices)
