"""Masked content "fill", held against the composition of blurs at full size that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from backend.images.masked_content import filled


def scene(width: int = 320, height: int = 256) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, (x + y) % 64 + 90], -1).astype(np.uint8))


def mask_with(box: tuple[int, int, int, int], size: tuple[int, int] = (320, 256)) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def reference(picture: Image.Image, mask: Image.Image) -> np.ndarray:
    """A1111's radii and repetitions, each blur of the premultiplied picture at full size, in floats."""
    kept = 1 - np.asarray(mask)[..., None] / 255
    visible = np.concatenate([np.asarray(picture) * kept, kept], axis=2)
    result = np.broadcast_to(visible[..., :3].sum((0, 1)) / kept.sum(), visible[..., :3].shape)
    for sigma, repetitions in ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1)):
        blurred = gaussian_filter(visible, (sigma, sigma, 0), mode="mirror") if sigma else visible
        colour = blurred[..., :3] / np.maximum(blurred[..., 3:], 1e-6)
        opacity = 1 - (1 - blurred[..., 3:]) ** repetitions
        result = result * (1 - opacity) + colour * opacity
    return result


@pytest.mark.parametrize("box", [(60, 40, 140, 110), (0, 0, 160, 256), (3, 3, 6, 6), (20, 20, 300, 236)])
def test_the_fill_is_the_composition_of_blurs(box):
    found = np.asarray(filled(scene(), mask_with(box))).astype(float)
    difference = np.abs(found - reference(scene(), mask_with(box)))
    assert difference.mean() < 4
    assert difference.max() < 32  # at the very rim, which the autoencoder cannot tell


def test_what_is_not_masked_stays_to_the_bit():
    box = (60, 40, 140, 110)
    outside = np.asarray(mask_with(box)) == 0
    np.testing.assert_array_equal(np.asarray(filled(scene(), mask_with(box)))[outside], np.asarray(scene())[outside])


def test_nothing_of_what_is_masked_shows_through():
    changed = scene()
    changed.paste((255, 0, 255), (61, 41, 139, 109))
    mask = mask_with((60, 40, 140, 110))
    np.testing.assert_array_equal(np.asarray(filled(changed, mask)), np.asarray(filled(scene(), mask)))


def test_one_colour_around_fills_all():
    plain = Image.new("RGB", (700, 500), (90, 160, 30))
    mask = mask_with((2, 2, 699, 499), (700, 500))
    assert np.abs(np.asarray(filled(plain, mask)).astype(int) - (90, 160, 30)).max() <= 2


def test_an_empty_mask_fills_nothing_and_a_full_one_gives_the_mean_colour():
    assert filled(scene(), Image.new("L", (320, 256))).tobytes() == scene().tobytes()
    full = np.asarray(filled(scene(), Image.new("L", (320, 256), 255)))
    assert np.abs(full[0, 0] - np.asarray(scene()).mean((0, 1))).max() <= 1
    assert (full == full[0, 0]).all()
