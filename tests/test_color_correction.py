"""Colours of one picture, light of another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.images.color_correction import lab_to_rgb, rgb_to_lab, with_colours_of

LUMINOSITY = np.array([0.3, 0.59, 0.11])


def scene(seed: int, tint: tuple[float, float, float] = (1, 1, 1)) -> np.ndarray:
    y, x = np.mgrid[:40, :60]
    random = np.random.default_rng(seed).normal(0, 12, (40, 60, 3))
    grey = 60 + 2 * x + 40 * np.sin(y / 5)
    return np.clip((grey[..., None] + random) * tint, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("rgb", "lab"),  # published conversions, D65
    [
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((128, 128, 128), (53.59, 0.0, 0.0)),
    ],
)
def test_lab_is_that_of_the_cie(rgb, lab):
    np.testing.assert_allclose(rgb_to_lab(np.array([rgb], np.uint8))[0], lab, atol=0.02)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(rgb=st.tuples(*[st.integers(0, 255)] * 3))
def test_every_colour_survives_lab(rgb):
    assert np.abs(lab_to_rgb(rgb_to_lab(np.array([rgb], np.uint8)))[0] - rgb).max() < 0.5


def test_a_picture_in_its_own_colours_is_itself():
    picture = scene(1, (1, 0.8, 0.6))
    assert np.abs(with_colours_of(picture, picture).astype(int) - picture).max() <= 1


def test_colours_come_from_the_picture_and_light_from_the_result():
    warm, cold = scene(1, (1, 0.8, 0.6)), scene(2, (0.6, 0.8, 1))
    corrected = with_colours_of(warm, cold).astype(float)
    means = rgb_to_lab(corrected.astype(np.uint8)).mean((0, 1))[1:]
    assert np.abs(means - rgb_to_lab(warm).mean((0, 1))[1:]).max() < 4
    assert np.abs(corrected @ LUMINOSITY - cold @ LUMINOSITY).max() < 1.5


def test_the_picture_may_have_another_size():
    assert with_colours_of(scene(1)[:7, :9], scene(2)).shape == (40, 60, 3)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(one=st.tuples(*[st.integers(0, 255)] * 3), other=st.tuples(*[st.integers(0, 255)] * 3))
def test_plain_pictures_and_single_pixels_are_corrected_too(one, other):
    picture, result = np.array([[one]], np.uint8), np.array([[other]], np.uint8)
    corrected = with_colours_of(picture, result)
    assert abs(float(corrected[0, 0] @ LUMINOSITY - result[0, 0] @ LUMINOSITY)) < 1.5
