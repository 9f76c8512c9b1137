"""Connected parts of masks, held against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import find_objects, label

from backend.images.regions import parts, regions


def drawn(rows: list[str]) -> Image.Image:
    return Image.fromarray(np.array([[255 * (letter == "#") for letter in row] for row in rows], np.uint8))


def test_an_empty_mask_has_no_parts():
    assert regions(Image.new("L", (5, 5))) == ()
    assert list(parts(Image.new("L", (5, 5)), 9)) == []


def test_a_full_mask_is_one_part():
    assert regions(Image.new("L", (5, 4), 1)) == ((0, 0, 5, 4),)


def test_parts_that_touch_at_a_corner_are_one_and_the_largest_comes_first():
    mask = drawn(["#......", ".#...##", "......#", "#......"])
    assert regions(mask) == ((5, 1, 7, 3), (0, 0, 2, 2), (0, 3, 1, 4))
    assert regions(mask, 1) == ((5, 1, 7, 3),)


def test_two_winding_parts_one_within_the_other_are_two():
    rows = [
        "#########",
        "#........",
        "#.#####.#",
        "#.#...#.#",
        "#.#.#.#.#",
        "#.#.###.#",
        "#.#.....#",
        "#.#######",
        "#........",
    ]
    assert regions(drawn(rows)) == ((2, 2, 9, 8), (0, 0, 9, 9))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), width=st.integers(1, 40), height=st.integers(1, 40))
def test_parts_are_those_of_the_reference(seed, share, width, height):
    inside = np.random.default_rng(seed).random((height, width)) < share
    mask = Image.fromarray((inside * 255).astype(np.uint8))
    labels, _ = label(inside, np.ones((3, 3)))
    expected = sorted((x.start, y.start, x.stop, y.stop) for y, x in find_objects(labels))
    found = regions(mask, 10_000)
    assert sorted(found) == expected
    alone = [np.asarray(part) for part in parts(mask, 10_000)]
    assert [part.any(axis=0).nonzero()[0][0] for part in alone] == [box.left for box in found]
    assert [int((part > 0).sum()) for part in alone] == sorted(np.bincount(labels[inside])[1:], reverse=True)
    assert (sum((part.astype(int) for part in alone), np.zeros((height, width), int)) == inside * 255).all()


def test_a_mask_of_noise_is_no_burden():
    inside = np.random.default_rng(0).random((1024, 1024)) < 0.4
    assert len(regions(Image.fromarray((inside * 255).astype(np.uint8)), 64)) == 64


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_no_more_than_the_limit(limit):
    assert len(regions(drawn(["#.#.#"]), limit)) == limit
    assert len(list(parts(drawn(["#.#.#"]), limit))) == limit
