"""Pictures brought to a size: stretched, cut off, or with continued edges; to the pixel where A1111 puts them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.images.resizing import layout_of, resized
from backend.init_image import ResizeMode


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    levels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(levels).convert(mode)


sides = st.integers(1, 90)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(width=sides, height=sides, new_width=sides, new_height=sides, mode=st.sampled_from(ResizeMode))
def test_every_picture_comes_to_every_size_in_every_way(width, height, new_width, new_height, mode):
    for kind in ("RGB", "RGBA", "L"):
        result = resized(picture(width, height, kind), new_width, new_height, mode)
        assert (result.size, result.mode) == ((new_width, new_height), kind)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(width=sides, height=sides, new_width=sides, new_height=sides)
def test_cutting_covers_the_size_and_filling_stays_inside(width, height, new_width, new_height):
    cut = layout_of((width, height), new_width, new_height, ResizeMode.CROP)
    assert cut.left <= 0
    assert cut.top <= 0
    assert cut.left + cut.width >= new_width
    assert cut.top + cut.height >= new_height
    assert new_width == cut.width or new_height == cut.height
    inside = layout_of((width, height), new_width, new_height, ResizeMode.FILL)
    assert inside.left >= 0
    assert inside.top >= 0
    assert inside.left + inside.width <= new_width
    assert inside.top + inside.height <= new_height
    assert new_width == inside.width or new_height == inside.height


@pytest.mark.parametrize("mode", ResizeMode)
def test_a_picture_of_the_size_stays_as_it_is(mode):
    image = picture(20, 30)
    assert resized(image, 20, 30, mode) is image


def test_cutting_keeps_the_middle():
    image = Image.new("RGB", (300, 100), (255, 0, 0))
    image.paste((0, 255, 0), (100, 0, 200, 100))
    assert set(resized(image, 100, 100, ResizeMode.CROP).get_flattened_data()) == {(0, 255, 0)}


def test_filling_repeats_the_outermost_pixels():
    image = picture(40, 20)
    pixels = np.asarray(resized(image, 40, 51, ResizeMode.FILL))
    np.testing.assert_array_equal(pixels[15:35], np.asarray(image))
    assert (pixels[:15] == pixels[15]).all()
    assert (pixels[35:] == pixels[34]).all()


def test_only_what_gets_larger_is_given_to_the_upscaler():
    asked = []

    def enlarge(image: Image.Image, width: int, height: int) -> Image.Image:
        asked.append((image.size, (width, height)))
        return Image.new("RGB", (width, height), (1, 2, 3))

    assert resized(picture(10, 20), 30, 30, ResizeMode.CROP, enlarge).getpixel((0, 0)) == (1, 2, 3)
    resized(picture(100, 200), 30, 30, ResizeMode.CROP, enlarge)
    assert asked == [((10, 20), (30, 60))]


def test_an_upscaler_of_its_own_size_is_brought_to_the_size():
    result = resized(picture(10, 10), 30, 30, ResizeMode.STRETCH, lambda image, *_: image.resize((40, 40)))
    assert result.size == (30, 30)
