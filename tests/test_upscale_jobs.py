"""Jobs that make pictures larger: their requests, what they write, and what is told of pictures that cannot be used."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView, SavedImage
from backend.engine.job_report import JobReport, Previews
from backend.engine.job_request import job_request_from, job_request_mapping
from backend.engine.job_table import JobTable
from backend.engine.outputs import Outputs
from backend.engine.publisher import Publisher
from backend.engine.settings import Settings
from backend.engine.upscale_jobs import UpscaleJobs
from backend.engine.upscale_request import UpscaleRequest
from backend.errors import RequestError, UnknownName
from backend.families.family import Machine
from backend.images.png_text import encode_png, read_png_text
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.peak_watch import PeakWatch
from backend.memory.residency import Residency
from backend.pipeline.infotext import read_infotext, request_from_infotext
from tests.upscaler_files import compact, write_upscaler

TIMEOUT = 60
FULL = DtypePolicy(unet=torch.float32, text_encoder=torch.float32, autoencoder=torch.float32)
INFOTEXT = "a cat\nNegative prompt: dog\nSteps: 5, Sampler: Euler, Seed: 77, Size: 20x14"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    write_upscaler(tmp_path / "models" / "upscalers" / "repeats.safetensors", compact(scale=2, size=0))
    engine = Engine.open(Settings.for_root(tmp_path, force_cpu=True, memory_budget=2**30), persistent=False)
    try:
        yield engine
    finally:
        engine.close()


def photo(width: int = 20, height: int = 14, seed: int = 1) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def stored(engine: Engine, image: Image.Image | None = None, **texts: str) -> str:
    return engine.pictures.add(encode_png(np.asarray(image or photo()), texts)).sha256


def run(engine: Engine, request: UpscaleRequest) -> JobView:
    return engine.wait(engine.submit(request), TIMEOUT)


def made(view: JobView, number: int = 0) -> Image.Image:
    assert (view.state, view.error) == (JobState.DONE, "")
    image = Image.open(view.images[number].path)
    assert image.size == (view.images[number].width, view.images[number].height)
    return image


def test_a_picture_is_enlarged_and_says_so_behind_what_it_said_before(engine: Engine) -> None:
    picture = stored(engine, parameters=INFOTEXT, emulsion='{"version": "1"}')
    view = run(engine, UpscaleRequest(pictures=(picture,), upscaler="repeats"))
    assert made(view).tobytes() == photo().resize((80, 56), Image.Resampling.NEAREST).tobytes()
    assert view.images[0].seed == 77
    assert view.images[0].path.name.endswith("-77.png")
    texts = read_png_text(view.images[0].path.read_bytes())
    assert texts["parameters"] == view.images[0].infotext
    assert texts["parameters"] == f"{INFOTEXT}, Postprocess upscale by: 4, Postprocess upscaler: repeats"
    assert texts["extras"] == "Postprocess upscale by: 4, Postprocess upscaler: repeats"
    assert texts["emulsion"] == '{"version": "1"}'
    restored = request_from_infotext(read_infotext(texts["parameters"]))
    assert (restored.fields["prompt"], restored.fields["seed"]) == ("a cat", 77)
    told = [notice for notice in restored.notices if "size" not in notice.casefold()]
    assert told == ["The picture was made larger afterwards by repeats; these settings make it as it was before."]
    assert view.step == view.steps > 0


def test_what_a_picture_without_metadata_says_is_read_back(engine: Engine) -> None:
    view = run(engine, UpscaleRequest(pictures=(stored(engine),), scale=1.5, upscaler="Lanczos"))
    assert made(view).size == (30, 21)
    parameters = read_infotext(view.images[0].infotext).parameters
    assert (parameters["Postprocess upscale by"], parameters["Postprocess upscaler"]) == ("1.5", "Lanczos")
    assert read_infotext(view.images[0].infotext).prompt == ""


@pytest.mark.parametrize(
    ("asked", "size", "said"),
    [
        ({"width": 40, "height": 40}, (40, 40), {"upscale to": "57x40", "crop to": "40x40"}),
        ({"width": 40, "height": 40, "crop": False}, (57, 40), {"upscale to": "57x40"}),
        ({"width": 50}, (50, 35), {"upscale to": "50x35"}),
        ({"height": 35}, (50, 35), {"upscale to": "50x35"}),
        ({"scale": 2.5}, (50, 35), {"upscale by": "2.5"}),
    ],
)
def test_sizes_are_asked_for_in_every_way(engine: Engine, asked, size: tuple[int, int], said: dict[str, str]) -> None:
    view = run(engine, UpscaleRequest(pictures=(stored(engine),), upscaler="nearest", **asked))
    assert made(view).size == size
    parameters = read_infotext(view.images[0].infotext).parameters
    told = {key.removeprefix("Postprocess "): value for key, value in parameters.items() if "scale " in key}
    told |= {"crop to": parameters["Postprocess crop to"]} if "crop to" in said else {}
    assert told == said


def test_cropping_keeps_the_middle(engine: Engine) -> None:
    view = run(engine, UpscaleRequest(pictures=(stored(engine),), upscaler="nearest", width=28, height=28))
    whole = photo().resize((40, 28), Image.Resampling.NEAREST)
    assert made(view).tobytes() == whole.crop((6, 0, 34, 28)).tobytes()


def test_a_second_upscaler_is_mixed_in(engine: Engine) -> None:
    picture = stored(engine)
    first, second = (photo().resize((40, 28), how) for how in (Image.Resampling.NEAREST, Image.Resampling.LANCZOS))
    request = UpscaleRequest(
        pictures=(picture,), scale=2, upscaler="repeats", second_upscaler="lanczos", second_visibility=0.25
    )
    view = run(engine, request)
    assert made(view).tobytes() == Image.blend(first, second, 0.25).tobytes()
    assert "Postprocess upscaler 2: Lanczos, Postprocess upscaler 2 visibility: 0.25" in view.images[0].infotext


def test_transparent_pictures_stay_transparent(engine: Engine) -> None:
    image = photo().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    file = io.BytesIO()
    image.save(file, "PNG")
    picture = engine.pictures.add(file.getvalue()).sha256
    view = run(engine, UpscaleRequest(pictures=(picture,), scale=2, upscaler="repeats"))
    enlarged = made(view)
    assert enlarged.mode == "RGBA"
    expected = image.getchannel("A").resize((40, 28), Image.Resampling.NEAREST)
    assert enlarged.getchannel("A").tobytes() == expected.tobytes()


def test_none_leaves_a_picture_as_it_is(engine: Engine) -> None:
    picture = stored(engine, parameters=INFOTEXT)
    view = run(engine, UpscaleRequest(pictures=(picture,), upscaler="None", width=33, height=44))
    assert made(view).tobytes() == photo().tobytes()
    assert read_png_text(view.images[0].path.read_bytes()) == {"parameters": INFOTEXT}
    mixed = UpscaleRequest(pictures=(picture,), upscaler="None", second_upscaler="nearest", second_visibility=1)
    assert made(run(engine, mixed)).tobytes() == photo().resize((80, 56), Image.Resampling.NEAREST).tobytes()


def test_without_a_name_the_first_network_is_taken_and_the_queued_job_names_it(engine: Engine) -> None:
    view = run(engine, UpscaleRequest(pictures=(stored(engine),)))
    assert isinstance(view.request, UpscaleRequest)
    assert view.request.upscaler == "repeats"
    assert "upscaler: repeats" in view.images[0].infotext


def test_of_several_pictures_a_broken_one_is_told_and_the_rest_is_made(engine: Engine) -> None:
    good = [stored(engine, photo(seed=seed)) for seed in (1, 2)]
    broken = stored(engine, photo(seed=3))
    request = UpscaleRequest(pictures=(good[0], broken, "0" * 64, good[1]), scale=2, upscaler="nearest")
    engine.pictures.path(broken).write_bytes(b"no picture")
    engine.pictures._described.clear()
    view = run(engine, request)
    assert len(view.images) == 2
    assert made(view, 1).tobytes() == photo(seed=2).resize((40, 28), Image.Resampling.NEAREST).tobytes()
    assert [notice[:26] for notice in view.notices] == ["Picture 2 of 4 was left ou", "Picture 3 of 4 was left ou"]
    assert view.step == view.steps == 4


def test_what_cannot_be_made_at_all_is_refused_at_once(engine: Engine) -> None:
    picture = stored(engine)
    with pytest.raises(UnknownName, match="no picture"):
        engine.submit(UpscaleRequest(pictures=("0" * 64,)))
    with pytest.raises(UnknownName, match=r"4x-none.*repeats"):
        engine.submit(UpscaleRequest(pictures=(picture,), upscaler="4x-none"))
    with pytest.raises(UnknownName, match="4x-none"):
        engine.submit(UpscaleRequest(pictures=(picture,), second_upscaler="4x-none"))
    large = stored(engine, Image.new("RGB", (2000, 100)))
    with pytest.raises(RequestError, match="32000 x 1600"):
        engine.submit(UpscaleRequest(pictures=(large,), scale=16))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({}, "pictures"),
        ({"pictures": []}, "pictures"),
        ({"pictures": ["../x"]}, "pictures"),
        ({"pictures": "a" * 64}, "pictures"),
        ({"scale": 0.5}, "scale"),
        ({"scale": "4"}, "scale"),
        ({"width": 0}, "width"),
        ({"height": 1e9}, "height"),
        ({"crop": 1}, "crop"),
        ({"upscaler": 3}, "upscaler"),
        ({"second_visibility": 2}, "second_visibility"),
        ({"more": 1}, "more"),
    ],
)
def test_fields_are_checked(values: dict[str, object], field: str) -> None:
    given = {"pictures": ["a" * 64], **values} if values else {}
    with pytest.raises(RequestError) as refused:
        UpscaleRequest.from_mapping(given)
    assert refused.value.field == field


def test_requests_come_back_from_the_journal_as_they_were() -> None:
    request = UpscaleRequest(
        pictures=("a" * 64, "b" * 64), scale=3.5, width=10, crop=False, upscaler="x", second_visibility=0.5
    )
    assert job_request_from(json.loads(json.dumps(job_request_mapping(request)))) == request


def test_after_a_restart_only_what_is_missing_is_made(engine: Engine, tmp_path: Path) -> None:
    broken = stored(engine, photo(seed=9))
    pictures = (broken, *(stored(engine, photo(seed=seed)) for seed in range(3)))
    engine.pictures.path(broken).unlink()
    request = UpscaleRequest(pictures=pictures, scale=2, upscaler="nearest")
    finished = SavedImage(path=Path("first.png"), seed=0, infotext="", width=40, height=28)
    view = JobView(id="job", state=JobState.RUNNING, request=request, images=(finished,))
    table, saved = JobTable(), list[SavedImage]()
    table.add(view)
    report = JobReport("job", table, Publisher(), PeakWatch(engine.device), Previews())
    machine = Machine(device=engine.device, policy=FULL, residency=Residency(2**30))
    outputs = Outputs(tmp_path / "again")
    UpscaleJobs(engine.upscalers, engine.pictures, machine, outputs, lambda _, one: saved.append(one)).run(
        view, request, report
    )
    assert len(saved) == 2
    expected = photo(seed=1).resize((40, 28), Image.Resampling.NEAREST)
    assert Image.open(saved[0].path).tobytes() == expected.tobytes()


def test_pictures_of_jobs_are_not_removed_as_unused(engine: Engine) -> None:
    used, unused = stored(engine), stored(engine, photo(seed=5))
    run(engine, UpscaleRequest(pictures=(used,), scale=2, upscaler="nearest"))
    for picture in (used, unused):
        os.utime(engine.pictures.path(picture), (0, 0))
    assert engine.remove_unused_pictures().pictures == 1
    assert engine.pictures.describe(used).width == 20
