"""What the forms of img2img and inpaint ask for, and how a request comes back into them."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr
import pytest

from backend.errors import RequestError
from backend.init_image import BorderFill, Borders, InitImage, InpaintArea, MaskedContent, MaskInput, ResizeMode
from backend.request import GenerationRequest
from backend.second_pass import Detailer, HiresFix, Rectangle, TileMethod, Tiles
from ui.binding import check_names, request_of, shown
from ui.components.hires_fields import hires_fields
from ui.components.init_fields import noise_fields, resize_fields, strength_field
from ui.components.mask_fields import mask_fields
from ui.components.tile_fields import tile_fields
from ui.form_events import tab_of

PICTURE, MASK = "a" * 64, "b" * 64
BORDERS = {"left": 0, "top": 64, "right": 8, "bottom": 0}


def canvas(**values: Any) -> str:
    return json.dumps({"picture": PICTURE, "mask": None, "width": 64, "height": 64, "borders": None, **values})


def test_a_form_that_nobody_touched_asks_for_what_suits_by_itself():
    choices = {name: [("A", "")] for name in ("sampler", "schedule", "checkpoint")}
    lists = {f"hires.{name}": pairs for name, pairs in choices.items()} | {"init.upscaler": [("Lanczos", "")]}
    with gr.Blocks():
        fields = {
            **strength_field("img2img"),
            **resize_fields(lists),
            **noise_fields("img2img"),
            **mask_fields("inpaint"),
            **hires_fields("inpaint", {**lists, "hires.upscaler": [("Latent", "latent")]}),
            **tile_fields("inpaint", has_picture=True),
        }
    check_names(fields)
    untouched = {name: field.value for name, field in fields.items()}
    request = request_of({**untouched, "init": canvas(mask=MASK), "hires.is_on": True, "tiles.is_on": True})
    assert request.init == InitImage(picture=PICTURE, mask=MaskInput(picture=MASK))
    assert request.hires == HiresFix()
    assert request.tiles == Tiles()


@pytest.mark.parametrize(
    "request_",
    [
        GenerationRequest(init=InitImage(picture=PICTURE, denoising_strength=0.3, exact_steps=True)),
        GenerationRequest(
            init=InitImage(
                picture=PICTURE,
                resize=ResizeMode.LATENT,
                upscaler="bicubic",
                mask=MaskInput(
                    picture=MASK, inverted=True, blur=0, content=MaskedContent.LATENT_NOISE, area=InpaintArea.MASKED
                ),
                borders=Borders(**BORDERS, fill=BorderFill.EDGE_NOISE, overlap=9),
            ),
            hires=HiresFix(scale=1.5, steps=3, sampler="heun", prompt="finer"),
            tiles=Tiles(method=TileMethod.SEPARATE, size=256, overlap=64),
            detailers=(
                Detailer(rectangles=(Rectangle(x=1, y=2, width=3, height=4),), prompt="a face"),
                Detailer(mask=MASK, is_on=False),
            ),
        ),
    ],
    ids=["img2img", "everything"],
)
def test_a_request_that_comes_back_into_the_form_is_asked_for_again(request_):
    values = shown({name: getattr(request_, name) for name in ("init", "hires", "tiles", "detailers")})
    assert json.loads(json.dumps(values)) == values  # as the page gets them
    usual = {"init.mask.blur": 4} if request_.init.mask else {}
    assert request_of({**usual, **values}) == request_


def test_what_is_switched_off_is_no_part_of_the_request():
    values = {"hires.is_on": False, "hires.scale": 3, "tiles.is_on": False, "tiles.size": 512}
    assert request_of(values) == GenerationRequest()


def test_a_form_without_masks_passes_over_what_is_painted():
    request = request_of({"init": canvas(mask=MASK, borders=BORDERS), "init.denoising_strength": 0.5})
    assert request.init == InitImage(picture=PICTURE, denoising_strength=0.5)


@pytest.mark.parametrize("nothing", ["", None, "{}"])
def test_a_form_whose_picture_is_missing_says_so(nothing):
    with pytest.raises(RequestError, match="no picture to begin with"):
        request_of({"init": nothing, "init.denoising_strength": 0.5})


def test_inpainting_wants_a_mask_or_new_borders():
    with pytest.raises(RequestError, match="nothing is painted"):
        request_of({"init": canvas(), "init.mask.blur": 4})
    request = request_of({"init": canvas(borders=BORDERS), "init.mask.blur": 4, "init.borders.overlap": 3})
    assert request.init is not None
    assert request.init.mask is None
    assert request.init.borders == Borders(**BORDERS, overlap=3)


@pytest.mark.parametrize("damaged", ["{", "[]", '{"picture": "x"}', canvas(borders="wide")])
def test_a_canvas_that_no_page_of_ours_would_send_is_refused(damaged):
    with pytest.raises(RequestError, match="init"):
        request_of({"init": damaged, "init.denoising_strength": 0.5})


def test_a_request_belongs_to_the_tab_that_has_all_of_its_fields():
    assert tab_of(None, "txt2img") == "txt2img"
    assert tab_of(None, "inpaint") == "inpaint"
    assert tab_of(InitImage(picture=PICTURE), "txt2img") == "img2img"
    assert tab_of(InitImage(picture=PICTURE, mask=MaskInput(picture=MASK)), "img2img") == "inpaint"
    assert tab_of(InitImage(picture=PICTURE, borders=Borders(left=8)), "img2img") == "inpaint"
