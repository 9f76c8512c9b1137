"""Masks: what was painted, rounded, inverted, blurred, and the box that is cut out for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import correlate1d

from backend.images import masks
from backend.images.masks import Box


def mask_with(box: tuple[int, int, int, int], size: tuple[int, int] = (2048, 2048), level: int = 255) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(level, box)
    return mask


def test_what_is_opaque_is_painted_where_something_is_transparent():
    image = Image.new("RGBA", (2, 1), (255, 255, 255, 0))
    image.putpixel((1, 0), (0, 0, 0, 200))
    assert list(masks.mask_of(image).get_flattened_data()) == [0, 200]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_what_is_white_is_painted_where_nothing_is_transparent(mode):
    image = Image.new(mode, (2, 1))
    image.putpixel((0, 0), (0, 0, 0, 255)[: len(mode)])
    image.putpixel((1, 0), (255, 255, 255, 255)[: len(mode)])
    assert list(masks.mask_of(image).get_flattened_data()) == [0, 255]


def test_more_than_128_is_painted():
    levels = Image.fromarray(np.array([[0, 127, 128, 129, 255]], np.uint8))
    assert list(masks.rounded(levels).get_flattened_data()) == [0, 0, 0, 255, 255]
    assert list(masks.inverted(levels).get_flattened_data()) == [255, 128, 127, 126, 0]
    assert list(masks.doubled(levels).get_flattened_data()) == [0, 254, 255, 255, 255]


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0, 7.3])
@pytest.mark.parametrize("shape", [(40, 60), (3, 50), (1, 1)])
def test_the_blur_is_a_gaussian_of_a1111s_kernel_mirrored_at_the_edges(sigma, shape):
    levels = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    radius = (2 * int(2.5 * sigma + 0.5) + 1) // 2
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    expected = levels.astype(np.float64)
    for axis in (1, 0):
        if shape[axis] > 1:
            expected = np.floor(correlate1d(expected, kernel / kernel.sum(), axis, mode="mirror") + 0.5)
    found = np.asarray(masks.blurred(Image.fromarray(levels), sigma)).astype(int)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("sigma", [17, 40, 100])
def test_wide_blurs_are_right_within_a_level_or_two(sigma):
    levels = np.zeros((300, 400), np.uint8)
    levels[100:220, 150:300] = 255
    radius = int(2.5 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    expected = levels.astype(np.float64)
    for axis in (1, 0):
        expected = correlate1d(expected, kernel / kernel.sum(), axis, mode="mirror")
    found = np.asarray(masks.blurred(Image.fromarray(levels), sigma)).astype(float)
    assert np.abs(found - expected).max() < 4


@pytest.mark.parametrize("sigma", [0, 4, 30, 256])
def test_empty_and_full_masks_stay_so(sigma):
    assert masks.blurred(Image.new("L", (70, 50)), sigma).getextrema() == (0, 0)
    assert masks.blurred(Image.new("L", (70, 50), 255), sigma).getextrema() == (255, 255)


def test_a_blur_changes_nothing_further_away_than_it_reaches():
    blurred = masks.blurred(mask_with((500, 500, 600, 550)), 4)
    assert blurred.getbbox() == (500 - 10, 500 - 10, 600 + 10, 550 + 10)
    assert blurred.crop((510, 510, 590, 540)).getextrema() == (255, 255)


def test_the_box_is_the_one_that_a1111_cuts_out():
    assert masks.box_around(mask_with((500, 500, 600, 550)), 32, 512, 512) == (468, 443, 632, 607)


@pytest.mark.parametrize(
    ("blob", "size", "shape", "box"),
    [
        ((0, 0, 10, 10), (100, 100), (2, 1), (0, 0, 20, 10)),  # shifted into the picture
        ((90, 90, 100, 100), (100, 100), (1, 2), (90, 80, 100, 100)),
        ((0, 0, 100, 30), (100, 60), (1, 1), (0, 0, 100, 60)),  # the picture is too small for the shape
        ((5, 5, 6, 6), (60, 60), (1, 1), (5, 5, 6, 6)),
    ],
)
def test_the_box_stays_in_the_picture(blob, size, shape, box):
    assert masks.box_around(mask_with(blob, size), 0, *shape) == box


def test_an_empty_mask_has_no_box():
    assert masks.box_around(Image.new("L", (9, 9)), 32, 512, 512) is None


@settings(deadline=None, derandomize=True, max_examples=300)
@given(data=st.data())
def test_the_box_holds_the_mask_and_has_its_shape_where_there_is_room(data):
    width, height = data.draw(st.integers(1, 80)), data.draw(st.integers(1, 80))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    new_width, new_height = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    padding = data.draw(st.integers(0, 20))
    box = masks.box_around(mask_with((left, top, right, bottom), (width, height)), padding, new_width, new_height)
    assert box is not None
    assert 0 <= box.left <= left
    assert 0 <= box.top <= top
    assert right <= box.right <= width
    assert bottom <= box.bottom <= height
    padded = Box(
        max(0, left - padding), max(0, top - padding), min(width, right + padding), min(height, bottom + padding)
    )
    wanted = max(padded.width, int(padded.height * new_width / new_height))
    assert box.width in (padded.width, min(wanted, width))
    tall = max(padded.height, int(padded.width * new_height / new_width))
    assert box.height in (padded.height, min(tall, height))


def test_a_mask_is_stretched_without_ringing():
    stretched = np.asarray(masks.fitted(mask_with((8, 8, 16, 16), (32, 32)), (320, 320)))
    assert not stretched[:70].any()
    assert (stretched[90:150, 90:150] == 255).all()
