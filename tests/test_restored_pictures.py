"""What a dropped picture says of pictures, second passes and details, as values of the form."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from backend.images.png_text import read_png_text
from backend.init_image import InitImage, InpaintArea, MaskInput
from backend.pipeline.infotext import write_infotext
from backend.pipeline.infotext_pictures import parameters_of
from backend.pipeline.metadata import REQUEST_KEY
from backend.request import GenerationRequest
from backend.second_pass import Detailer, HiresFix, Rectangle, Tiles
from tests.http_server import engine_in
from ui.binding import shown
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


def test_what_a1111_says_of_inpainting_fills_the_form_for_the_picture_that_it_has(engine):
    text = (
        "cat\nSteps: 20, Sampler: Euler a, Seed: 1, Size: 512x512, Denoising strength: 0.4, Mask mode: Inpaint not "
        "masked, Masked content: latent noise, Mask blur: 8, Init image hash: 0123abcd"
    )
    restored = restore(engine, text)
    assert "init" not in restored.values
    assert len(restored.notices) == 1
    form = shown(restored.values)
    expected = {
        "init.denoising_strength": 0.4,
        "init.mask.inverted": True,
        "init.mask.content": "latent_noise",
        "init.mask.blur": 8,
    }
    assert expected.items() <= form.items()
    assert "init" not in form


def test_hires_of_a1111_is_restored_by_its_names(engine):
    text = (
        "cat\nSteps: 20, Sampler: Euler a, Seed: 1, Size: 512x512, Denoising strength: 0.5, Hires upscale: 1.5, "
        "Hires upscaler: Latent (bicubic), Hires sampler: Use same sampler, Hires schedule type: Karras"
    )
    expected = HiresFix(scale=1.5, denoising_strength=0.5, upscaler="latent_bicubic", schedule="karras")
    restored = restore(engine, text)
    assert (restored.values["hires"], restored.notices) == (expected, [])


def test_upscalers_are_found_by_all_their_names_or_told(engine, picture):
    restored = restore(engine, text_of(hires=HiresFix(upscaler="Lanczos")))
    assert (restored.values["hires"].upscaler, restored.notices) == ("lanczos", [])
    restored = restore(engine, text_of(hires=HiresFix(upscaler="R-ESRGAN 4x+", scale=3)))
    assert restored.values["hires"] == HiresFix(scale=3)
    assert "R-ESRGAN 4x+" in restored.notices[0]
    restored = restore(engine, text_of(init=InitImage(picture=picture, upscaler="Unheard of")))
    assert restored.values["init"] == InitImage(picture=picture)
    assert "Unheard of" in restored.notices[0]


@pytest.mark.parametrize("area", list(InpaintArea))
def test_a_result_says_everything_that_makes_it_again_to_the_byte(engine, picture, area):
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (8, 8, 40, 40))
    mask_file = io.BytesIO()
    mask.save(mask_file, "PNG")
    painted = MaskInput(picture=engine.pictures.add(mask_file.getvalue()).sha256, blur=2.5, area=area, padding=8)
    asked = GenerationRequest(
        prompt="a cat",
        steps=2,
        width=64,
        height=64,
        sampler="Euler a",
        init=InitImage(picture=picture, denoising_strength=0.7, extra_noise=0.1, exact_steps=True, mask=painted),
        detailers=(Detailer(rectangles=(Rectangle(x=4, y=4, width=32, height=32),), size=64, steps=1),),
    )
    first = engine.wait(engine.submit(asked), 60).images[0]
    restored = restore(engine, first.infotext)
    assert restored.notices == []
    again = engine.wait(engine.submit(GenerationRequest(**restored.values)), 60).images[0]
    assert pixels(again.path) == pixels(first.path)
    exact = json.loads(read_png_text(first.path.read_bytes())[REQUEST_KEY])["request"]
    third = engine.wait(engine.submit(GenerationRequest.from_mapping(exact)), 60).images[0]
    assert third.path.read_bytes() == first.path.read_bytes()


def test_a_second_pass_is_made_again_to_the_byte(engine):
    hires = HiresFix(scale=1.5, upscaler="lanczos", sampler="Euler a", schedule="Karras", steps=2, prompt="a dog, big")
    asked = GenerationRequest(
        prompt="a cat", steps=2, width=64, height=64, hires=hires, tiles=Tiles(size=128, overlap=64)
    )
    first = engine.wait(engine.submit(asked), 60).images[0]
    assert (first.width, first.height) == (96, 96)
    restored = restore(engine, first.infotext)
    assert restored.notices == []
    again = engine.wait(engine.submit(GenerationRequest(**restored.values)), 60).images[0]
    assert pixels(again.path) == pixels(first.path)
    assert "Hires sampler: Euler a" in first.infotext


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()
