"""Pictures, second passes, tiles and details in an infotext: what is written is read back; A1111's is understood."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from backend.init_image import BorderFill, Borders, InitImage, InpaintArea, MaskedContent, MaskInput, ResizeMode
from backend.pipeline.infotext import read_infotext, request_from_infotext, write_infotext
from backend.pipeline.infotext_pictures import parameters_of, pictures_from
from backend.request import GenerationRequest
from backend.second_pass import Detailer, HiresFix, Rectangle, TileMethod, Tiles

A, B = "a" * 64, "b0" * 32

hashes = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
unit = st.floats(0, 1)
words = st.text(max_size=20)
names = st.sampled_from(
    ["latent", "latent_nearest_exact", "none", "lanczos", "R-ESRGAN 4x+", "4x, fast: v2", "x:y", " outer ", '"q"']
)
samplers = st.none() | st.sampled_from(["Euler a", "DPM++ 2M", "a, b"])
sides = st.none() | st.integers(64, 16_384)

masks = st.builds(
    MaskInput,
    picture=hashes,
    inverted=st.booleans(),
    blur=st.floats(0, 256),
    content=st.sampled_from(MaskedContent),
    area=st.sampled_from(InpaintArea),
    padding=st.integers(0, 1024),
    soft=st.booleans(),
    conditioning_weight=unit,
)
borders = st.builds(
    Borders,
    left=st.integers(1, 4096),
    top=st.integers(0, 4096),
    right=st.integers(0, 4096),
    bottom=st.integers(0, 4096),
    fill=st.sampled_from(BorderFill),
    overlap=st.integers(0, 512),
)
inits = st.builds(
    InitImage,
    picture=hashes,
    denoising_strength=unit,
    exact_steps=st.booleans(),
    resize=st.sampled_from(ResizeMode),
    upscaler=st.none() | names,
    noise_multiplier=st.floats(0, 2),
    extra_noise=unit,
    color_correction=st.booleans(),
    image_guidance=st.floats(0, 30),
    mask=st.none() | masks,
    borders=st.none() | borders,
)
second_passes = st.builds(
    HiresFix,
    scale=st.floats(1, 8),
    width=sides,
    height=sides,
    upscaler=names,
    denoising_strength=unit,
    steps=st.none() | st.integers(1, 1000),
    sampler=samplers,
    schedule=samplers,
    guidance_scale=st.none() | st.floats(0, 100),
    checkpoint=st.none() | st.sampled_from(["model", "folder/a b", "x, y"]),
    prompt=words,
    negative_prompt=words,
)
tiles = st.builds(
    Tiles, method=st.sampled_from(TileMethod), size=st.sampled_from([512, 768]), overlap=st.sampled_from([0, 64, 256])
)
rectangles = st.builds(
    Rectangle, x=st.integers(0, 99), y=st.integers(0, 99), width=st.integers(1, 99), height=st.integers(1, 99)
)
detailers = st.builds(
    Detailer,
    rectangles=st.lists(rectangles, min_size=1, max_size=3).map(tuple),
    denoising_strength=unit,
    padding=st.integers(0, 1024),
    blur=st.floats(0, 256),
    size=st.none() | st.integers(64, 4096),
    steps=st.none() | st.integers(1, 1000),
    prompt=words,
    negative_prompt=words,
    is_on=st.booleans(),
) | st.builds(Detailer, mask=hashes) | st.builds(Detailer, detector=words)  # fmt: skip


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    init=st.none() | inits,
    hires=st.none() | second_passes,
    tiles=st.none() | tiles,
    detailers=st.lists(detailers, max_size=3).map(tuple),
)
def test_everything_that_is_written_is_read_back(init, hires, tiles, detailers):
    pairs = {"Steps": 20, "Seed": 1, "Size": "64x64"}
    pairs |= parameters_of(init=init, hires=hires, tiles=tiles, detailers=detailers)
    assume(all(key != str(value) for key, value in pairs.items()))  # A1111 writes these as a flag
    restored = pictures_from(read_infotext(write_infotext("a cat", "", pairs)).parameters)
    given = {"init": init, "hires": hires, "tiles": tiles, "detailers": detailers}
    assert restored.fields == {name: value for name, value in given.items() if value}
    assert restored.notices == ()


def test_hires_is_written_as_a1111_writes_it():
    hires = HiresFix(upscaler="latent_bicubic_antialiased", denoising_strength=0.5, steps=12, prompt="a cat, big")
    assert parameters_of(init=None, hires=hires, tiles=None) == {
        "Denoising strength": "0.5",
        "Hires upscale": "2",
        "Hires steps": "12",
        "Hires upscaler": "Latent (bicubic antialiased)",
        "Hires prompt": "a cat, big",
    }
    sized = HiresFix(width=1024, upscaler="R-ESRGAN 4x+")
    assert parameters_of(init=None, hires=sized, tiles=None) == {
        "Denoising strength": "0.7",
        "Hires resize": "1024x0",
        "Hires upscaler": "R-ESRGAN 4x+",
    }


def test_inpainting_is_written_as_a1111_writes_it_with_the_pictures_that_it_does_not_name():
    mask = MaskInput(picture=B, inverted=True, area=InpaintArea.MASKED, content=MaskedContent.LATENT_NOISE, padding=48)
    init = InitImage(picture=A, denoising_strength=0.6, noise_multiplier=1.1, mask=mask, resize=ResizeMode.FILL)
    assert parameters_of(init=init, hires=None, tiles=None) == {
        "Denoising strength": "0.6",
        "Resize mode": "Resize and fill",
        "Noise multiplier": "1.1",
        "Init image": A,
        "Mask mode": "Inpaint not masked",
        "Mask blur": "4",
        "Masked content": "latent noise",
        "Inpaint area": "Only masked",
        "Masked area padding": "48",
        "Mask image": B,
    }


def test_nothing_is_written_of_a_plain_picture():
    assert parameters_of(init=None, hires=None, tiles=None) == {}
    assert pictures_from({"Steps": "20"}).fields == {}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "Denoising strength: 0.35, Hires upscale: 1.5, Hires steps: 10, Hires upscaler: R-ESRGAN 4x+",
            HiresFix(denoising_strength=0.35, scale=1.5, steps=10, upscaler="R-ESRGAN 4x+"),
        ),
        (
            "Denoising strength: 0.7, Hires resize: 0x1024, Hires upscaler: Latent (nearest-exact)",
            HiresFix(height=1024, upscaler="latent_nearest_exact"),
        ),
        (
            "Denoising strength: 0.5, Hires Module 1: Use same choices, Hires CFG Scale: 5, Hires upscale: 2, "
            "Hires upscaler: Latent (antialiased), Hires steps: 0, Hires checkpoint: big [0123456789], "
            "Hires sampler: DPM++ 2M, Hires schedule type: Use same scheduler, "
            'Hires prompt: "a dog, big", Hires negative prompt: blurry',
            HiresFix(
                denoising_strength=0.5,
                guidance_scale=5,
                upscaler="latent_antialiased",
                checkpoint="big",
                sampler="DPM++ 2M",
                prompt="a dog, big",
                negative_prompt="blurry",
            ),
        ),
        ("Hires scale: 3, Hires strength: 0.2, Hires upscaler: None", HiresFix(
            scale=3, denoising_strength=0.2, upscaler="none")),
    ],
)  # fmt: skip
def test_hires_of_other_programs_is_restored(line, expected):
    fields, notices = request_from_infotext(read_infotext(f"cat\nSteps: 20, Seed: 1, Size: 512x512, {line}"))
    assert fields["hires"] == expected
    assert notices == []
    assert GenerationRequest(**fields).hires == expected


def test_img2img_of_a1111_tells_that_its_picture_is_not_named():
    line = "Denoising strength: 0.6, Mask blur: 4, Inpaint area: Only masked, Masked area padding: 32"
    fields, notices = request_from_infotext(read_infotext(f"cat\nSteps: 20, Seed: 1, {line}"))
    assert "init" not in fields
    assert "hires" not in fields
    assert notices == [
        "Denoising strength, Mask blur, Inpaint area, Masked area padding: the text does not say which picture this "
        "began with."
    ]
    assert pictures_from(read_infotext(f"cat\nSteps: 20, Seed: 1, {line}").parameters).settings == {
        "init.denoising_strength": 0.6,
        "init.mask.blur": 4,
        "init.mask.area": InpaintArea.MASKED,
        "init.mask.padding": 32,
    }


def test_both_strengths_are_told_apart():
    init, hires = InitImage(picture=A, denoising_strength=0.3), HiresFix(denoising_strength=0.55)
    pairs = parameters_of(init=init, hires=hires, tiles=None)
    assert (pairs["Denoising strength"], pairs["Hires strength"]) == ("0.3", "0.55")


@pytest.mark.parametrize(
    ("pairs", "key"),
    [
        ({"Init image": "abc"}, "Init image"),
        ({"Init image": A, "Denoising strength": "2"}, "Denoising strength"),
        ({"Init image": A, "Denoising strength": "nan"}, "Denoising strength"),
        ({"Init image": A, "Resize mode": "sideways"}, "Resize mode"),
        ({"Init image": A, "Mask image": B, "Mask blur": "-1"}, "Mask blur"),
        ({"Init image": A, "Mask image": "x"}, "Mask image"),
        ({"Init image": A, "Borders": "{}"}, "Borders"),
        ({"Init image": A, "Exact steps": "maybe"}, "Exact steps"),
        ({"Hires upscale": "99"}, "Hires upscale"),
        ({"Hires upscale": "2", "Hires steps": "many"}, "Hires steps"),
        ({"Hires resize": "1x1"}, "Hires resize"),
        ({"Hires resize": "large"}, "Hires resize"),
        ({"Tiles": "[" * 5000}, "Tiles"),
        ({"Tiles": '{"size": 7}'}, "Tiles"),
        ({"Tiles": "3"}, "Tiles"),
        ({"Detailers": "{}"}, "Detailers"),
        ({"Detailers": '[{"detector": 3}]'}, "Detailers"),
    ],
)
def test_a_value_that_makes_no_sense_costs_only_itself(pairs, key):
    restored = pictures_from(pairs)
    assert [notice.partition(":")[0] for notice in restored.notices] == [key]
    GenerationRequest(**restored.fields)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from(
            "Init image|Mask image|Borders|Tiles|Detailers|Hires upscale|Hires resize|Mask blur|Mask mode|Resize mode|"
            "Denoising strength|Hires steps|Hires checkpoint|Hires CFG Scale".split("|")
        ),
        st.text(max_size=12) | st.sampled_from([A, "1e999", "nan", "0x0", "9" * 5000, "{}", "[]", "null", "[null]"]),
    )
)
def test_no_text_breaks_it(pairs):
    restored = pictures_from(pairs)
    assert restored.keys <= pairs.keys()
    GenerationRequest(**restored.fields)
