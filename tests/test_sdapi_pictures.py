"""img2img, inpainting and hires fix of A1111's interface: how bodies are read, and what they make."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.errors import EmulsionError, NotSupported, RequestError
from backend.http.sdapi.img2img_body import read_img2img
from backend.http.sdapi.txt2img_body import read_txt2img
from backend.http.security import Security
from backend.http.server import build_app
from backend.init_image import InitImage, InpaintArea, MaskedContent, MaskInput, ResizeMode
from backend.pipeline.infotext import read_infotext, write_infotext
from backend.pipeline.infotext_pictures import parameters_of
from backend.second_pass import HiresFix
from tests.http_server import SMALL, client_of, engine_in

SDAPI = "/sdapi/v1"


def png(color: tuple[int, int, int] = (9, 99, 199), size: tuple[int, int] = (64, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def sent(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


PICTURE, MASK = png(), png((255, 255, 255))
SHA256, MASK_SHA256 = hashlib.sha256(PICTURE).hexdigest(), hashlib.sha256(MASK).hexdigest()


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with engine_in(tmp_path_factory.mktemp("sdapi-pictures"), checkpoints=2) as engine:
        yield engine


@pytest.fixture(scope="module")
def client(engine):
    with client_of(build_app(engine, Security())) as client:
        yield client


def img2img(engine, **body):
    return read_img2img({"init_images": [sent(PICTURE)], **body}, engine.catalog, engine.library, engine.pictures)


def txt2img(engine, **body):
    return read_txt2img(body, engine.catalog, engine.library)


# img2img


def test_a_picture_alone_is_read_with_a1111s_defaults_and_stored(engine):
    call = img2img(engine, prompt="a dog")
    assert call.request.init == InitImage(picture=SHA256, denoising_strength=0.75, resize=ResizeMode.STRETCH)
    assert (call.request.prompt, call.request.width, call.notices) == ("a dog", None, ())
    assert engine.pictures.data(SHA256) == PICTURE


def test_a_data_uri_is_a_picture(engine):
    call = read_img2img(
        {"init_images": [f"data:image/png;base64,{sent(PICTURE)}"]}, engine.catalog, engine.library, engine.pictures
    )
    assert call.request.init is not None
    assert call.request.init.picture == SHA256


def test_a_mask_alone_is_read_with_a1111s_defaults(engine):
    call = img2img(engine, mask=sent(MASK))
    assert call.request.init is not None
    assert call.request.init.mask == MaskInput(
        picture=MASK_SHA256, blur=4, content=MaskedContent.FILL, area=InpaintArea.MASKED, padding=0
    )


def test_every_field_is_read(engine):
    settings = {
        "img2img_extra_noise": 0.1, "img2img_fix_steps": True, "img2img_color_correction": True,
        "upscaler_for_img2img": "Lanczos", "inpainting_mask_weight": 0.5, "sd_model_checkpoint": "tiny-1",
    }  # fmt: skip
    call = img2img(
        engine, mask=sent(MASK), mask_blur=8, inpainting_fill=2, inpaint_full_res=0, inpaint_full_res_padding=32.0,
        inpainting_mask_invert=1, resize_mode=2, denoising_strength=0.4, image_cfg_scale=2, include_init_images=True,
        initial_noise_multiplier=1.1, override_settings=settings, width=128, height=64, mask_round=True, **HIRES_OFF,
    )  # fmt: skip
    mask = MaskInput(
        picture=MASK_SHA256,
        blur=8,
        content=MaskedContent.LATENT_NOISE,
        area=InpaintArea.WHOLE,
        padding=32,
        inverted=True,
        conditioning_weight=0.5,
    )
    assert call.request.init == InitImage(
        picture=SHA256,
        denoising_strength=0.4,
        resize=ResizeMode.FILL,
        image_guidance=2,
        noise_multiplier=1.1,
        extra_noise=0.1,
        exact_steps=True,
        color_correction=True,
        upscaler="lanczos",
        mask=mask,
    )
    assert (call.request.width, call.request.checkpoint, call.notices) == (128, "tiny-1", ())


HIRES_OFF = {"hr_scale": 2, "hr_upscaler": "Latent", "enable_hr": False, "hr_cfg": 1}


@pytest.mark.parametrize(("number", "mode"), [*enumerate(("stretch", "crop", "fill", "latent"))])
def test_resize_modes_are_numbered_as_a1111_does(engine, number, mode):
    assert img2img(engine, resize_mode=number).request.init.resize.value == mode


@pytest.mark.parametrize(("number", "content"), [*enumerate(("fill", "original", "latent_noise", "latent_nothing"))])
def test_masked_content_is_numbered_as_a1111_does(engine, number, content):
    assert img2img(engine, mask=sent(MASK), inpainting_fill=number).request.init.mask.content.value == content


def test_blur_may_come_for_each_direction(engine):
    assert img2img(engine, mask=sent(MASK), mask_blur_x=7, mask_blur_y=7).request.init.mask.blur == 7
    assert img2img(engine, mask=sent(MASK), mask_blur=3, mask_blur_x=7).request.init.mask.blur == 3
    with pytest.raises(NotSupported, match="mask_blur_y"):
        img2img(engine, mask=sent(MASK), mask_blur_x=7)


def test_an_infotext_of_ours_brings_its_picture_and_counts_less_than_what_is_given(engine):
    engine.pictures.add(PICTURE)
    init = InitImage(picture=SHA256, denoising_strength=0.3, mask=MaskInput(picture=MASK_SHA256, blur=9))
    pairs = parameters_of(init=init, hires=None, tiles=None)
    text = write_infotext("a cat", "", {"Steps": 3, "Sampler": "Euler", "Seed": 5, **pairs})
    whole = read_img2img({"infotext": text}, engine.catalog, engine.library, engine.pictures)
    assert whole.request.init == init
    given = img2img(engine, infotext=text, resize_mode=1)
    assert given.request.init == InitImage(picture=SHA256, denoising_strength=0.3, resize=ResizeMode.CROP)
    plain = txt2img(engine, infotext=text)
    assert plain.request.init is None
    assert "img2img" in plain.notices[0]


# webuiapi writes every field at its neutral value.
WEBUIAPI = {
    "resize_mode": 0, "denoising_strength": 0.75, "mask_blur": 4, "inpainting_fill": 0, "inpaint_full_res": True,
    "inpaint_full_res_padding": 0, "inpainting_mask_invert": 0, "initial_noise_multiplier": 1, "styles": [], "seed": -1,
    "subseed": -1, "subseed_strength": 0, "seed_resize_from_h": 0, "seed_resize_from_w": 0, "batch_size": 1,
    "n_iter": 1, "cfg_scale": 7.0, "image_cfg_scale": 1.5, "restore_faces": False, "tiling": False,
    "do_not_save_samples": False, "do_not_save_grid": False, "negative_prompt": "", "eta": 1.0, "s_churn": 0,
    "s_tmax": 0, "s_tmin": 0, "s_noise": 1, "override_settings": {}, "override_settings_restore_afterwards": True,
    "include_init_images": False, "sampler_name": None, "sampler_index": None, "script_name": None, "script_args": [],
    "send_images": True, "save_images": False, "alwayson_scripts": {}, "mask": None,
}  # fmt: skip


def test_a_known_client_is_served(engine):
    call = img2img(engine, **WEBUIAPI)
    assert call.notices == ()
    assert call.request.init == InitImage(picture=SHA256, denoising_strength=0.75, resize=ResizeMode.STRETCH)


@pytest.mark.parametrize(
    ("args", "soft"),
    [([True, 1, 0.5, 4, 0, 0.5, 2], True), ([{"Soft inpainting": True, "Schedule bias": 1}], True), ([False], False)],
)
def test_soft_inpainting_is_switched_on_by_its_script(engine, args, soft):
    call = img2img(engine, mask=sent(MASK), alwayson_scripts={"Soft Inpainting": {"args": args}})
    assert call.request.init.mask.soft is soft


@pytest.mark.parametrize("script", [{}, {"args": []}, {"args": ["on"]}, {"args": [{}]}, 5])
def test_soft_inpainting_that_does_not_say_whether_it_is_on_is_refused(engine, script):
    with pytest.raises(RequestError, match="alwayson_scripts"):
        img2img(engine, mask=sent(MASK), alwayson_scripts={"soft inpainting": script})
    with pytest.raises(NotSupported, match="alwayson_scripts"):
        img2img(engine, alwayson_scripts={"soft inpainting": script, "ControlNet": {}})


BAD_PICTURES = {
    "missing": (None, "init_images"),
    "no list": (sent(PICTURE), "init_images"),
    "empty list": ([], "init_images"),
    "two": ([sent(PICTURE)] * 2, "init_images"),
    "empty": ([""], "init_images"),
    "null": ([None], "init_images"),
    "number": ([5], "init_images"),
    "not base64": (["%%%"], "init_images"),
    "half of base64": ([sent(PICTURE)[:101]], "init_images"),
    "0 bytes": (["data:image/png;base64,"], "init_images"),
    "no picture": ([sent(b"hello")], "init_images"),
    "truncated": ([sent(PICTURE[:60])], "init_images"),
    "address": (["https://elsewhere.example/a.png"], "init_images"),
    "file": (["file:///etc/passwd"], "init_images"),
}


@pytest.mark.parametrize(("images", "field"), BAD_PICTURES.values(), ids=BAD_PICTURES.keys())
def test_pictures_that_are_none_are_refused_by_the_clients_field(client, images, field):
    answer = client.post(f"{SDAPI}/img2img", json={"prompt": "a cat", "init_images": images})
    assert (answer.status_code, answer.json()["error"], answer.json()["field"]) == (422, "RequestError", field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"mask": "%%%"}, "mask"),
        ({"mask": "https://elsewhere.example/a.png"}, "mask"),
        ({"mask": sent(b"hello")}, "mask"),
        ({"mask": 5}, "mask"),
        ({"mask": sent(MASK), "mask_blur": -1}, "mask_blur"),
        ({"mask": sent(MASK), "mask_blur": "soft"}, "mask_blur"),
        ({"mask": sent(MASK), "inpainting_fill": 4}, "inpainting_fill"),
        ({"mask": sent(MASK), "inpainting_fill": "fill"}, "inpainting_fill"),
        ({"mask": sent(MASK), "inpaint_full_res": "yes"}, "inpaint_full_res"),
        ({"mask": sent(MASK), "inpaint_full_res_padding": -3}, "inpaint_full_res_padding"),
        ({"mask": sent(MASK), "inpainting_mask_invert": 2}, "inpainting_mask_invert"),
        ({"resize_mode": 4}, "resize_mode"),
        ({"resize_mode": True}, "resize_mode"),
        ({"denoising_strength": 1.5}, "denoising_strength"),
        ({"denoising_strength": "0.5"}, "denoising_strength"),
        ({"image_cfg_scale": -1}, "image_cfg_scale"),
        ({"initial_noise_multiplier": 9}, "initial_noise_multiplier"),
        ({"override_settings": {"img2img_extra_noise": 7}}, "img2img_extra_noise"),
        ({"override_settings": {"img2img_fix_steps": "yes"}}, "img2img_fix_steps"),
        ({"override_settings": {"upscaler_for_img2img": 3}}, "upscaler_for_img2img"),
        ({"steps": 0}, "steps"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_refused_by_the_clients_name_for_it(client, body, field):
    answer = client.post(f"{SDAPI}/img2img", json={"prompt": "a cat", "init_images": [sent(PICTURE)], **body})
    assert (answer.status_code, answer.json()["error"], answer.json()["field"]) == (422, "RequestError", field)


@pytest.mark.parametrize(
    ("field", "value"), [("mask_round", False), ("latent_mask", sent(MASK)), ("enable_hr", True), ("tiling", True)]
)
def test_what_is_asked_for_and_not_there_is_named(client, field, value):
    answer = client.post(f"{SDAPI}/img2img", json={"init_images": [sent(PICTURE)], field: value})
    assert (answer.status_code, answer.json()["error"], answer.json()["field"]) == (501, "NotSupported", field)


# hires fix


def test_hires_fields_are_read(engine):
    call = txt2img(
        engine, enable_hr=True, hr_scale=1.5, hr_upscaler="Latent (bicubic antialiased)", hr_second_pass_steps=7.0,
        hr_resize_x=0, hr_resize_y=0, hr_sampler_name="Euler a", hr_scheduler="Karras", hr_prompt="big",
        hr_negative_prompt="small", hr_cfg=3, hr_checkpoint_name="tiny-1", denoising_strength=0.4,
        hr_additional_modules=["Use same choices"], firstphase_width=0,
    )  # fmt: skip
    assert call.request.hires == HiresFix(
        scale=1.5,
        upscaler="latent_bicubic_antialiased",
        steps=7,
        sampler=engine.catalog.samplers["Euler a"].name,
        schedule="karras",
        prompt="big",
        negative_prompt="small",
        guidance_scale=3,
        checkpoint="tiny-1",
        denoising_strength=0.4,
    )
    assert call.notices == ()


def test_hires_fields_that_are_left_out_are_a1111s_defaults(engine):
    assert txt2img(engine, enable_hr=True).request.hires == HiresFix(denoising_strength=0.75, upscaler="latent")
    neutral = {
        "hr_second_pass_steps": 0, "hr_resize_x": 1024, "hr_resize_y": 0, "hr_upscaler": "R-ESRGAN 4x+",
        "hr_sampler_name": "Use same sampler", "hr_scheduler": "Use same scheduler", "hr_prompt": "",
        "hr_checkpoint_name": "Use same checkpoint", "hr_negative_prompt": "",
    }  # fmt: skip
    call = txt2img(engine, enable_hr=True, **neutral)
    assert call.request.hires == HiresFix(denoising_strength=0.75, width=1024, upscaler="R-ESRGAN 4x+")


def test_hires_fields_mean_nothing_where_it_is_off(engine):
    call = txt2img(engine, enable_hr=False, hr_scale=99, hr_anything="x", denoising_strength=0.7)
    assert (call.request.hires, call.notices) == (None, ())
    assert txt2img(engine, hr_scale=3).request.hires is None


def test_an_infotext_brings_hires_fix_unless_it_is_switched_off(engine):
    pairs = parameters_of(init=None, hires=HiresFix(scale=1.25, denoising_strength=0.35), tiles=None)
    text = write_infotext("a cat", "", {"Steps": 3, "Sampler": "Euler", "Seed": 5, **pairs})
    assert txt2img(engine, infotext=text).request.hires == HiresFix(scale=1.25, denoising_strength=0.35)
    changed = txt2img(engine, infotext=text, enable_hr=True, hr_scale=3).request.hires
    assert changed == HiresFix(scale=3, denoising_strength=0.35)
    assert txt2img(engine, infotext=text, enable_hr=False).request.hires is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"hr_scale": 9}, "hr_scale"),
        ({"hr_scale": "2"}, "hr_scale"),
        ({"hr_second_pass_steps": -1}, "hr_second_pass_steps"),
        ({"hr_resize_x": 7}, "hr_resize_x"),
        ({"hr_resize_y": 99_999}, "hr_resize_y"),
        ({"hr_upscaler": 5}, "hr_upscaler"),
        ({"hr_sampler_name": "nobody"}, "hr_sampler_name"),
        ({"hr_sampler_name": 5}, "hr_sampler_name"),
        ({"hr_scheduler": "nobody"}, "hr_scheduler"),
        ({"hr_checkpoint_name": "nobody"}, "hr_checkpoint_name"),
        ({"hr_cfg": -1}, "hr_cfg"),
        ({"hr_prompt": 5}, "hr_prompt"),
        ({"denoising_strength": 2}, "denoising_strength"),
        ({"enable_hr": "yes"}, "enable_hr"),
    ],
)
def test_a_wrong_hires_field_is_refused_by_the_clients_name_for_it(client, body, field):
    answer = client.post(f"{SDAPI}/txt2img", json={"prompt": "a cat", "enable_hr": True, **SMALL, **body})
    assert (answer.status_code, answer.json()["error"], answer.json()["field"]) == (422, "RequestError", field)


def test_latent_upscalers_are_listed_as_a1111_lists_them(client):
    assert [mode["name"] for mode in client.get(f"{SDAPI}/latent-upscale-modes").json()] == [
        "Latent", "Latent (antialiased)", "Latent (bicubic)", "Latent (bicubic antialiased)", "Latent (nearest)",
        "Latent (nearest-exact)",
    ]  # fmt: skip


def test_a_body_with_a_wrong_field_leaves_no_picture_behind(engine):
    before = engine.pictures.size()
    with pytest.raises(RequestError, match="steps"):
        img2img(engine, init_images=[sent(png((1, 2, 3)))], steps="many")
    assert engine.pictures.size() == before


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(sent(PICTURE)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)
NAMES = sorted(
    {*WEBUIAPI, *HIRES_OFF, "hr_sampler_name", "hr_checkpoint_name", "hr_resize_x", "init_images", "infotext"}
)
BODIES = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), anything, max_size=5)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(body=BODIES, is_on=st.booleans())
def test_every_body_is_read_or_refused_with_a_typed_error(engine, body, is_on):
    with suppress(EmulsionError):
        img2img(engine, **body)
    with suppress(EmulsionError):
        read_txt2img({"enable_hr": is_on, **body}, engine.catalog, engine.library)


# What comes out


def made(client, path, **body):
    answer = client.post(f"{SDAPI}/{path}", json={"prompt": "a cat", "seed": 3, **SMALL, **body})
    assert answer.status_code == 200, answer.text
    return answer.json(), json.loads(answer.json()["info"])


def pixels_of(answer) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))))


def file_of(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def noisy_picture() -> bytes:
    return file_of(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))


def test_img2img_makes_a_picture_that_says_what_it_began_with(client):
    answer, info = made(client, "img2img", init_images=[sent(PICTURE)], denoising_strength=0.6)
    assert pixels_of(answer).shape == (64, 64, 3)
    written = read_infotext(info["infotexts"][0]).parameters
    assert (written["Denoising strength"], written["Init image"]) == ("0.6", SHA256)
    assert info["denoising_strength"] == 0.6
    assert info["extra_generation_params"]["Resize mode"] == "Just resize"
    assert answer["parameters"]["init_images"] is None
    shown, _ = made(client, "img2img", init_images=[sent(PICTURE)], include_init_images=True)
    assert shown["parameters"]["init_images"] == [sent(PICTURE)]


def test_the_infotext_of_a_picture_makes_it_again(client):
    answer, info = made(client, "img2img", init_images=[sent(PICTURE)], denoising_strength=0.5, resize_mode=1)
    again, _ = made(client, "img2img", infotext=info["infotexts"][0])
    assert again["images"] == answer["images"]


@pytest.mark.parametrize("full_res", [False, True])
def test_outside_of_the_mask_every_pixel_stays(client, full_res):
    picture = noisy_picture()
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 40, 40))
    answer, info = made(
        client, "img2img", init_images=[sent(picture)], mask=sent(file_of(mask)), mask_blur=0, inpainting_fill=1,
        inpaint_full_res=full_res, inpaint_full_res_padding=8, denoising_strength=1.0,
    )  # fmt: skip
    before, after = np.asarray(Image.open(io.BytesIO(picture))), pixels_of(answer)
    outside = np.asarray(mask) == 0
    assert np.array_equal(before[outside], after[outside])
    assert not np.array_equal(before[~outside], after[~outside])
    told = info["extra_generation_params"].get("Inpaint area")
    assert told == ("Only masked" if full_res else "Whole picture")


def test_hires_fix_makes_a_larger_picture_that_can_be_made_again(client):
    fields = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent (nearest-exact)", "hr_second_pass_steps": 1}
    answer, info = made(client, "txt2img", **fields, denoising_strength=0.5)
    assert pixels_of(answer).shape == (128, 128, 3)
    extra = info["extra_generation_params"]
    assert (extra["Hires upscale"], extra["Hires upscaler"]) == ("2", "Latent (nearest-exact)")
    again, _ = made(client, "txt2img", infotext=info["infotexts"][0])
    assert np.array_equal(pixels_of(again), pixels_of(answer))
    small, _ = made(client, "txt2img", infotext=info["infotexts"][0], enable_hr=False)
    assert pixels_of(small).shape == (64, 64, 3)


def test_nothing_is_left_of_hires_fix_unless_it_is_to_be_kept(client, engine):
    def kept():
        return set(engine.settings.output_dir.rglob("*.png"))

    before = kept()
    made(client, "txt2img", enable_hr=True, hr_scale=1.5)
    assert kept() == before
    made(client, "txt2img", enable_hr=True, hr_scale=1.5, save_images=True)
    assert len(kept() - before) == 2  # also what the first pass made


def test_an_upscaler_that_is_not_here_is_refused_by_its_field(client):
    answer = client.post(f"{SDAPI}/txt2img", json={"enable_hr": True, "hr_upscaler": "Unheard of", **SMALL})
    assert (answer.status_code, answer.json()["field"]) == (422, "hr_upscaler")
