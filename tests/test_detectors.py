"""Detectors of extensions: registered by name, and held to what they promise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from PIL import Image, ImageDraw

from backend.errors import ExtensionError
from backend.extensions.guards import guarded_detector
from backend.images.detector import Detector

PICTURE = Image.new("RGB", (40, 30), (10, 20, 30))


def guarded(find: Callable[[Image.Image], list[Image.Image]]) -> Detector:
    return guarded_detector("faces", Detector(name="faces", label="Faces", find=find))


def test_what_is_found_is_given_on_and_the_picture_is_a_copy() -> None:
    def find(picture: Image.Image) -> list[Image.Image]:
        ImageDraw.Draw(picture).rectangle((0, 0, 39, 29), fill=(255, 255, 255))
        return [Image.new("L", picture.size, 255)]

    assert [mask.getpixel((0, 0)) for mask in guarded(find).find(PICTURE)] == [255]
    assert PICTURE.getpixel((0, 0)) == (10, 20, 30)
    assert guarded(lambda picture: []).find(PICTURE) == []


@pytest.mark.parametrize(
    "found",
    [Image.new("RGB", (40, 30)), Image.new("L", (30, 40)), "a face", None],
    ids=["colours", "size", "text", "none"],
)
def test_what_is_no_mask_is_refused_with_the_name_of_the_extension(found: Image.Image) -> None:
    with pytest.raises(ExtensionError, match=r"faces.*masks"):
        guarded(lambda picture: [found]).find(PICTURE)


def test_a_detector_that_breaks_is_told_with_the_name_of_the_extension() -> None:
    def find(picture: Image.Image) -> list[Image.Image]:
        raise RuntimeError("no model")

    with pytest.raises(ExtensionError, match=r"faces.*no model"):
        guarded(find).find(PICTURE)
