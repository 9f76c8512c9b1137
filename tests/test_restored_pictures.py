"""What a dropped picture says of pictures, second passes and details, as values of the form."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from backend.init_image import InitImage, MaskInput
from backend.pipeline.infotext import write_infotext
from backend.pipeline.infotext_pictures import parameters_of
from backend.second_pass import Detailer, HiresFix, Rectangle, Tiles
from tests.http_server import engine_in
from ui.restore import restore

NOT_HERE = "0" * 64


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with engine_in(tmp_path_factory.mktemp("restored")) as engine:
        yield engine


@pytest.fixture(scope="module")
def picture(engine):
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 99, 199)).save(file, "PNG")
    return engine.pictures.add(file.getvalue()).sha256


def text_of(**given):
    values = {"init": None, "hires": None, "tiles": None, "detailers": (), **given}
    return write_infotext("a cat", "", {"Steps": 4, "Sampler": "Euler", "Seed": 1, **parameters_of(**values)})


def test_everything_that_is_here_is_restored(engine, picture):
    given = {
        "init": InitImage(picture=picture, denoising_strength=0.4, mask=MaskInput(picture=picture, blur=7)),
        "tiles": Tiles(size=512),
        "detailers": (Detailer(mask=picture), Detailer(rectangles=(Rectangle(x=0, y=0, width=9, height=9),))),
    }
    hires = HiresFix(sampler="Euler a", schedule="Karras", checkpoint="tiny-0", upscaler="latent_nearest")
    restored = restore(engine, text_of(**given, hires=hires))
    assert restored.notices == []
    assert given.items() <= restored.values.items()
    expected = HiresFix(
        sampler=engine.catalog.samplers["Euler a"].name,
        schedule="karras",
        checkpoint="tiny-0",
        upscaler="latent_nearest",
    )
    assert restored.values["hires"] == expected


def test_pictures_that_are_not_stored_here_are_told_and_the_rest_is_restored(engine, picture):
    restored = restore(engine, text_of(init=InitImage(picture=NOT_HERE)))
    assert restored.values["init"] is None
    assert NOT_HERE in restored.notices[0]
    restored = restore(engine, text_of(init=InitImage(picture=picture, mask=MaskInput(picture=NOT_HERE))))
    assert restored.values["init"] == InitImage(picture=picture)
    assert "mask" in restored.notices[0]
    detailers = (Detailer(mask=NOT_HERE), Detailer(mask=picture))
    restored = restore(engine, text_of(detailers=detailers))
    assert restored.values["detailers"] == detailers[1:]
    assert len(restored.notices) == 1


def test_names_of_the_second_pass_that_are_not_here_are_the_first_pass_s(engine):
    restored = restore(engine, text_of(hires=HiresFix(sampler="Unheard of", checkpoint="elsewhere", scale=1.5)))
    assert restored.values["hires"] == HiresFix(scale=1.5)
    assert [name in "".join(restored.notices) for name in ("Unheard of", "elsewhere")] == [True, True]


def test_an_old_name_of_a_sampler_brings_its_schedule(engine):
    restored = restore(engine, text_of(hires=HiresFix(sampler="Euler Karras")))
    assert (restored.values["hires"].sampler, restored.values["hires"].schedule) == ("euler", "karras")


def test_a_text_without_them_switches_them_off_but_leaves_the_picture(engine):
    values = restore(engine, text_of()).values
    assert (values["hires"], values["tiles"], values["detailers"]) == (None, None, ())
    assert "init" not in values


def test_hires_of_a1111_is_restored_by_its_names(engine):
    text = (
        "cat\nSteps: 20, Sampler: Euler a, Seed: 1, Size: 512x512, Denoising strength: 0.5, Hires upscale: 1.5, "
        "Hires upscaler: Latent (bicubic), Hires sampler: Use same sampler, Hires schedule type: Karras"
    )
    expected = HiresFix(scale=1.5, denoising_strength=0.5, upscaler="latent_bicubic", schedule="karras")
    restored = restore(engine, text)
    assert (restored.values["hires"], restored.notices) == (expected, [])
