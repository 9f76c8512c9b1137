"""New borders: where they lie, what they begin with, and that nobody sees where the picture ended."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.images.outpainting import bordered, size_for
from backend.init_image import BorderFill, Borders


def scene(width: int = 160, height: int = 120) -> Image.Image:
    """Noise with the spectrum of photographs, 1 / f."""
    random = np.random.default_rng(5)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    planes = []
    for _ in range(3):
        spectrum = np.fft.rfft2(random.standard_normal((height, width))) / np.maximum(frequency, 1 / width)
        plane = np.fft.irfft2(spectrum, (height, width))
        planes.append(np.clip(128 + 40 * plane / (plane.std() or 1), 0, 255))
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


pixels = st.integers(0, 90)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(data=st.data(), fill=st.sampled_from(BorderFill), step=st.sampled_from([1, 8, 16, 64]))
def test_the_picture_stays_and_the_mask_covers_the_rest(data, fill, step):
    left, top, right, bottom = (data.draw(pixels) for _ in range(4))
    borders = Borders(left=left, top=top, right=right, bottom=bottom or 1, fill=fill, overlap=data.draw(pixels))
    picture = scene(data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70)))
    whole, mask = bordered(picture, None, borders, step)
    assert whole.size == mask.size == size_for(picture.size, borders, step)
    assert whole.width % step == whole.height % step == 0
    assert 0 <= whole.width - picture.width - left - right < step
    levels = np.asarray(mask)
    x, y = np.argmax((levels < 255).any(axis=0)), np.argmax((levels < 255).any(axis=1))  # the old corner
    assert x >= left
    assert y >= top
    inside = np.s_[y : y + picture.height, x : x + picture.width]
    np.testing.assert_array_equal(np.asarray(whole)[inside], np.asarray(picture))
    outside = np.ones(levels.shape, bool)
    outside[inside] = False
    assert (levels[outside] == 255).all()


def test_rounding_widens_the_borders_that_are_there():
    whole, _ = bordered(Image.new("RGB", (10, 10), (9, 9, 9)), None, Borders(left=3, top=1, bottom=1), 8)
    assert whole.size == (16, 16)
    assert size_for((10, 10), Borders(left=3, top=1, bottom=1), 8) == (16, 16)
    _, mask = bordered(Image.new("RGB", (10, 10)), None, Borders(left=3, top=1, bottom=1, overlap=0), 8)
    assert Image.eval(mask, lambda level: 255 - level).getbbox() == (6, 3, 16, 13)


def test_a_side_without_a_border_grows_at_its_end_if_it_must():
    _, mask = bordered(Image.new("RGB", (13, 16)), None, Borders(top=8, overlap=0), 8)
    assert Image.eval(mask, lambda level: 255 - level).getbbox() == (0, 8, 13, 24)


def test_the_mask_falls_off_inside_of_the_old_edge_and_only_there():
    _, mask = bordered(scene(), None, Borders(left=40, overlap=20), 8)
    row = np.asarray(mask)[60].astype(int)
    assert (row[:40] == 255).all()
    assert (np.diff(row[39:61]) < 0).all()
    assert not row[60:].any()


def test_what_was_painted_changes_too():
    painted = Image.new("L", (160, 120))
    painted.paste(200, (100, 50, 110, 60))
    _, mask = bordered(scene(), painted, Borders(left=40, overlap=20), 8)
    assert mask.getpixel((145, 55)) == 200


@pytest.mark.parametrize("fill", BorderFill)
@pytest.mark.parametrize("rounds", [1, 2])
def test_the_old_edge_is_no_sharper_than_the_picture(fill, rounds):
    picture = scene()
    for _ in range(rounds):
        picture, _ = bordered(picture, None, Borders(left=64, right=64, fill=fill), 8)
    columns = np.abs(np.diff(np.asarray(picture).astype(float), axis=1)).mean(axis=(0, 2))
    edge = 64 * rounds - 1  # between the last column of the border and the first of the picture
    own = np.abs(np.diff(np.asarray(scene()).astype(float), axis=1)).mean()
    assert columns[edge] <= 1.5 * own
    assert columns[columns.size - 1 - edge] <= 1.5 * own


def test_a_mirrored_border_is_the_picture_at_its_edge_and_blurred_further_out():
    whole = np.asarray(bordered(scene(), None, Borders(left=128), 8)[0]).astype(float)
    np.testing.assert_array_equal(whole[:, 127], whole[:, 128])
    sharpness = np.abs(np.diff(whole, axis=0)).mean(axis=(0, 2))
    assert sharpness[120:128].mean() > sharpness[100:108].mean() > sharpness[60:68].mean() > sharpness[:8].mean()


def test_noise_in_the_border_has_the_spread_and_the_colours_of_the_picture():
    red = Image.merge("RGB", [scene().getchannel("R"), *Image.new("RGB", (160, 120), (0, 90, 90)).split()[1:]])
    whole = np.asarray(bordered(red, None, Borders(left=256, fill=BorderFill.EDGE_NOISE), 8)[0]).astype(float)
    border, own = whole[:, :200], np.asarray(red).astype(float)
    assert (border[..., 1:] == 90).all()  # where the picture has no texture, there is none
    assert abs(border[..., 0].mean() - own[..., 0].mean()) < 20
    details = [np.abs(np.diff(part[..., 0], axis=1)).mean() for part in (border, own)]
    assert 0.6 < details[0] / details[1] < 1.4


def test_noise_is_the_same_every_time_and_another_for_another_picture():
    borders = Borders(left=96, fill=BorderFill.EDGE_NOISE)
    first, again = (bordered(scene(), None, borders, 8)[0] for _ in range(2))
    assert first.tobytes() == again.tobytes()
    changed = scene()
    changed.putpixel((159, 119), (0, 0, 0))
    other = np.asarray(bordered(changed, None, borders, 8)[0])[:, :40]
    assert (np.asarray(first)[:, :40] != other).any()


@pytest.mark.parametrize("fill", BorderFill)
def test_borders_wider_than_the_picture_are_filled_too(fill):
    whole, _ = bordered(Image.new("RGB", (3, 1), (10, 200, 30)), None, Borders(left=300, top=50, fill=fill), 8)
    assert np.abs(np.asarray(whole).astype(int) - (10, 200, 30)).max() <= 1
