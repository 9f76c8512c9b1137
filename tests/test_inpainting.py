"""From a picture and a mask to what is encoded and back: what the mask does not touch comes back bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.images.inpainting import Prepared, prepare
from backend.images.masks import blurred, box_around
from backend.images.outpainting import size_for
from backend.init_image import Borders, InitImage, InpaintArea, MaskedContent, MaskInput, ResizeMode

NAME = "0" * 64


def picture(width: int = 96, height: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8))


def mask_with(box: tuple[int, int, int, int], size: tuple[int, int] = (96, 64)) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def masked(**options: object) -> InitImage:
    return InitImage(picture=NAME, mask=MaskInput(picture=NAME, **options))  # type: ignore[arg-type]


def made(prepared: Prepared, level: int = 77) -> np.ndarray:
    return prepared.finish(np.full((prepared.picture.height, prepared.picture.width, 3), level, np.uint8))


def test_without_a_mask_the_result_is_what_was_made():
    prepared = prepare(picture(), None, InitImage(picture=NAME), 64, 64)
    assert (prepared.picture.size, prepared.mask, prepared.notices) == ((64, 64), None, ())
    assert (made(prepared) == 77).all()


boxes = st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(1, 36), st.integers(1, 24))


@settings(deadline=None, derandomize=True, max_examples=120)
@given(
    at=boxes,
    area=st.sampled_from(InpaintArea),
    content=st.sampled_from(MaskedContent),
    blur=st.sampled_from([0, 1.5, 4, 20]),
    soft=st.booleans(),
    inverted=st.booleans(),
    padding=st.integers(0, 40),
    corrects=st.booleans(),
)
def test_outside_of_the_mask_every_bit_stays(at, area, content, blur, soft, inverted, padding, corrects):
    image, mask = picture(), mask_with((at[0], at[1], at[0] + at[2], at[1] + at[3]))
    init = InitImage(
        picture=NAME,
        color_correction=corrects,
        mask=MaskInput(
            picture=NAME, area=area, content=content, blur=blur, soft=soft, inverted=inverted, padding=padding
        ),
    )
    size = image.size if area is InpaintArea.WHOLE else (40, 48)
    prepared = prepare(image, mask, init, *size)
    assert prepared.picture.size == prepared.original.size == size
    assert prepared.mask is not None
    assert prepared.mask.size == size
    result = made(prepared)
    painted = Image.eval(mask, lambda level: 255 - level) if inverted else mask
    outside = np.asarray(blurred(painted, blur)) == 0
    assert result.shape == (64, 96, 3)
    np.testing.assert_array_equal(result[outside], np.asarray(image)[outside])


@pytest.mark.parametrize("area", InpaintArea)
def test_inside_of_the_mask_is_what_was_made(area):
    result = made(prepare(picture(), mask_with((20, 20, 60, 50)), masked(area=area, blur=0), 96, 64))
    assert (result[20:50, 20:60] == 77).all()


def test_the_masked_area_comes_out_where_it_was():
    """What the network returns unchanged lies in its old place, scaled there and back."""
    smooth = Image.linear_gradient("L").resize((300, 200)).convert("RGB")
    prepared = prepare(smooth, mask_with((120, 60, 180, 110), (300, 200)), masked(area=InpaintArea.MASKED), 256, 256)
    result = prepared.finish(np.asarray(prepared.picture)).astype(int)
    assert np.abs(result - np.asarray(smooth).astype(int)).max() <= 2


def test_the_masked_area_of_a_picture_that_is_too_small_for_the_shape_comes_out_where_it_was():
    smooth = Image.linear_gradient("L").resize((300, 40)).convert("RGB")
    prepared = prepare(smooth, mask_with((100, 5, 250, 35), (300, 40)), masked(area=InpaintArea.MASKED), 128, 128)
    result = prepared.finish(np.asarray(prepared.picture)).astype(int)
    assert np.abs(result - np.asarray(smooth).astype(int)).max() <= 8


def test_the_masked_area_is_cut_out_with_its_padding():
    image, mask = picture(400, 300), mask_with((100, 100, 140, 120), (400, 300))
    prepared = prepare(image, mask, masked(area=InpaintArea.MASKED, padding=10, blur=0), 60, 60)
    assert box_around(mask, 10, 60, 60) == (90, 80, 150, 140)
    np.testing.assert_array_equal(np.asarray(prepared.original), np.asarray(image.crop((90, 80, 150, 140))))


def test_a_blurred_mask_mixes_over_the_whole_picture_at_twice_its_level():
    image = picture()
    prepared = prepare(image, mask_with((40, 0, 96, 64)), masked(blur=4), 96, 64)
    assert prepared.mask is not None
    share = np.minimum(2 * np.asarray(prepared.mask).astype(float), 255)[..., None] / 255
    expected = np.asarray(image) * (1 - share) + 77 * share
    assert np.abs(made(prepared) - expected).max() <= 1


def test_a_mask_that_is_not_soft_is_rounded_and_a_soft_one_keeps_its_grey():
    grey = Image.new("L", (96, 64), 100)
    soft = prepare(picture(), grey, masked(blur=0, soft=True), 96, 64).mask
    assert soft is not None
    assert soft.getextrema() == (100, 100)
    hard = prepare(picture(), grey, masked(blur=0), 96, 64).mask
    assert hard is not None
    assert hard.getextrema() == (0, 0)


def test_an_empty_mask_of_the_masked_area_makes_the_whole_picture_again_and_says_so():
    prepared = prepare(picture(), Image.new("L", (96, 64)), masked(area=InpaintArea.MASKED), 64, 64)
    assert prepared.mask is None
    assert "mask is empty" in prepared.notices[0]
    assert (made(prepared) == 77).all()


def test_an_empty_mask_of_the_whole_picture_changes_nothing_and_says_so():
    prepared = prepare(picture(), Image.new("L", (96, 64)), masked(content=MaskedContent.FILL), 96, 64)
    assert "nothing of the picture changes" in prepared.notices[0]
    np.testing.assert_array_equal(made(prepared), np.asarray(picture()))


@pytest.mark.parametrize("area", InpaintArea)
@pytest.mark.parametrize("content", MaskedContent)
def test_a_full_mask_changes_everything(area, content):
    prepared = prepare(picture(), Image.new("L", (96, 64), 255), masked(area=area, content=content), 96, 64)
    assert prepared.notices == ()
    assert (made(prepared) == 77).all()


def test_a_mask_of_another_size_is_stretched_and_this_is_said():
    prepared = prepare(picture(), mask_with((0, 0, 24, 32), (48, 32)), masked(blur=0), 96, 64)
    assert "48 x 32" in prepared.notices[0]
    assert "96 x 64" in prepared.notices[0]
    assert prepared.mask is not None
    assert prepared.mask.getbbox() == (0, 0, 48, 64)


def test_transparent_parts_become_white_and_this_is_said():
    image = Image.new("RGBA", (96, 64), (10, 20, 30, 0))
    image.paste((10, 20, 30, 255), (0, 0, 48, 64))
    prepared = prepare(image, None, InitImage(picture=NAME), 96, 64)
    assert prepared.picture.getpixel((0, 0)) == (10, 20, 30)
    assert prepared.picture.getpixel((90, 0)) == (255, 255, 255)
    assert "transparent" in prepared.notices[0]
    assert prepare(picture().convert("RGBA"), None, InitImage(picture=NAME), 96, 64).notices == ()


def test_filled_content_hides_what_was_there_and_the_original_does_not():
    image = Image.new("RGB", (96, 64), (200, 100, 50))
    image.paste((0, 0, 255), (40, 20, 60, 40))
    mask = mask_with((36, 16, 64, 44))
    prepared = prepare(image, mask, masked(blur=0, content=MaskedContent.FILL), 96, 64)
    assert np.abs(np.asarray(prepared.picture).astype(int) - (200, 100, 50)).max() <= 2
    assert prepared.original.getpixel((50, 30)) == (0, 0, 255)
    assert prepare(image, mask, masked(blur=0), 96, 64).picture.getpixel((50, 30)) == (0, 0, 255)


def test_new_borders_leave_the_picture_where_it_is():
    borders = Borders(left=30, bottom=17, overlap=8)
    size = size_for((96, 64), borders, 8)
    assert size == (128, 88)
    prepared = prepare(picture(), None, InitImage(picture=NAME, borders=borders), *size)
    result = made(prepared)
    assert result.shape == (88, 128, 3)
    np.testing.assert_array_equal(result[:56, 40:], np.asarray(picture())[:56, 8:])
    assert (result[:, :32] == 77).all()
    assert (result[64:] == 77).all()


def test_new_borders_and_a_mask_both_change():
    init = InitImage(picture=NAME, mask=MaskInput(picture=NAME, blur=0), borders=Borders(right=32, overlap=0))
    result = made(prepare(picture(), mask_with((10, 10, 20, 20)), init, 128, 64))
    assert (result[10:20, 10:20] == 77).all()
    assert (result[:, 96:] == 77).all()
    np.testing.assert_array_equal(result[20:, :96], np.asarray(picture())[20:])


def test_a_picture_with_borders_comes_to_any_other_size_too():
    init = InitImage(picture=NAME, borders=Borders(top=10, right=20))
    assert made(prepare(picture(), None, init, 40, 200)).shape == (200, 40, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3)])
@pytest.mark.parametrize("area", InpaintArea)
@pytest.mark.parametrize("mode", ResizeMode)
def test_the_smallest_pictures_are_pictures(size, area, mode):
    init = InitImage(
        picture=NAME,
        resize=mode,
        color_correction=True,
        mask=MaskInput(picture=NAME, area=area, content=MaskedContent.FILL),
    )
    prepared = prepare(picture(*size), Image.new("L", size, 255), init, 64, 72)
    assert prepared.picture.size == (64, 72)
    assert made(prepared).shape == ((72, 64, 3) if area is InpaintArea.WHOLE else (size[1], size[0], 3))


def test_the_colours_of_the_picture_come_back():
    image = Image.merge("RGB", [Image.linear_gradient("L").resize((96, 64)), *Image.new("RGB", (96, 64)).split()[1:]])
    prepared = prepare(image, None, InitImage(picture=NAME, color_correction=True), 96, 64)
    grey = np.asarray(image.convert("L").convert("RGB"))
    result = prepared.finish(grey)
    assert (result[..., 0].astype(int) >= result[..., 1]).all()
    assert result[..., 0].mean() > result[..., 1].mean() + 20


def test_pixels_of_another_size_are_a_mistake():
    with pytest.raises(ValueError, match=r"\[64, 96, 3\]"):
        prepare(picture(), None, InitImage(picture=NAME), 96, 64).finish(np.zeros((64, 64, 3), np.uint8))


def test_a_request_with_a_mask_needs_it():
    with pytest.raises(ValueError, match="mask"):
        prepare(picture(), None, masked(), 96, 64)
