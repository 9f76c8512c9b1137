"""Pictures of every kind, as a network can use them: upright, 8 bits, RGB or RGBA."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from backend.errors import BadImage
from backend.images.safe_open import open_image, open_picture


def file_of(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags.tobytes()


CORNERS = Image.new("RGB", (48, 32), (128, 128, 128))  # red, green and blue corners, and one without
for at, colour in (((0, 0), (255, 0, 0)), ((32, 0), (0, 255, 0)), ((0, 16), (0, 0, 255))):
    CORNERS.paste(colour, (*at, at[0] + 16, at[1] + 16))

# How a camera wrote the upright picture into the file for each orientation (EXIF 2.32, 4.6.4 A): the 0th row and column
# of the file are the picture's top and left, top and right, bottom right, bottom left, left top, right top ...
WRITTEN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("orientation", WRITTEN)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_are_upright_however_the_camera_was_held(kind, orientation):
    stored = Image.fromarray(np.ascontiguousarray(WRITTEN[orientation](np.asarray(CORNERS))))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    opened = open_picture(file_of(stored, kind, exif=exif(orientation), **options))
    assert opened.size == (48, 32)
    assert np.abs(np.asarray(opened).astype(int) - np.asarray(CORNERS)).max() <= 3


@pytest.mark.parametrize("orientation", [0, 9, 4711])
def test_an_orientation_that_is_none_turns_nothing(orientation):
    assert open_picture(file_of(CORNERS, "PNG", exif=exif(orientation))).tobytes() == CORNERS.tobytes()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # of Pillow
@pytest.mark.parametrize(
    "damaged", [b"Exif\0\0rubbish", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
def test_a_damaged_exif_leaves_the_picture_as_it_is(damaged):
    assert open_picture(file_of(CORNERS, "JPEG", exif=damaged)).size == (48, 32)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_alpha_channel_stays(kind):
    image = Image.new("RGBA", (8, 8), (200, 100, 50, 120))
    opened = open_picture(file_of(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert opened.mode == "RGBA"
    assert opened.getpixel((3, 3)) == (200, 100, 50, 120)
    assert open_image(file_of(image, "PNG")).getpixel((3, 3)) == (200, 100, 50)


def test_grey_with_alpha_keeps_it():
    assert open_picture(file_of(Image.new("LA", (4, 4), (90, 10)), "PNG")).getpixel((0, 0)) == (90, 90, 90, 10)


def test_a_palette_keeps_its_transparent_colours():
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for x in range(3):
        image.putpixel((x, 0), x)
    plain = open_picture(file_of(image, "PNG"))
    assert (plain.mode, plain.getpixel((2, 0))) == ("RGB", (0, 0, 255))
    opened = open_picture(file_of(image, "PNG", transparency=bytes([0, 128, 255])))
    assert list(opened.get_flattened_data()) == [(255, 0, 0, 0), (0, 255, 0, 128), (0, 0, 255, 255)]


@pytest.mark.parametrize(("mode", "white"), [("RGB", (255, 255, 255)), ("L", 255)])
def test_one_transparent_colour_is_an_alpha_channel(mode, white):
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((1, 0), white)
    opened = open_picture(file_of(image, "PNG", transparency=white))
    assert list(opened.get_flattened_data()) == [(0, 0, 0, 255), (255, 255, 255, 0)]


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped():
    levels = np.array([[0, 128, 257, 300, 32_768, 65_535]], np.uint16)
    opened = open_picture(file_of(Image.fromarray(levels), "PNG"))
    assert [pixel[0] for pixel in opened.get_flattened_data()] == [0, 0, 1, 1, 128, 255]
    assert open_image(file_of(Image.fromarray(levels), "PNG")).tobytes() == opened.tobytes()


def test_black_and_white_of_one_bit():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert list(open_picture(file_of(image, "PNG")).get_flattened_data()) == [(0, 0, 0), (255, 255, 255)]


def test_cmyk_is_converted():
    for ink, colour in (((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))):
        opened = open_picture(file_of(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100))
        assert opened.mode == "RGB"
        assert np.abs(np.array(opened.getpixel((8, 8))) - colour).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_shows_its_first_frame(kind):
    frames = [Image.new("RGBA", (4, 4), (shade, 0, 0, 200)) for shade in (10, 120, 250)]
    options = {"lossless": True} if kind == "WEBP" else {}
    opened = open_picture(file_of(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert opened.getpixel((0, 0)) == (10, 0, 0, 200)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_one_pixel_is_a_picture(mode):
    assert open_picture(file_of(Image.new(mode, (1, 1)), "PNG")).size == (1, 1)


def test_the_name_of_a_file_says_nothing_about_its_format():
    assert open_picture(file_of(CORNERS, "JPEG"), "cat.png").size == (48, 32)
    with pytest.raises(BadImage, match=r"cat\.png: it is damaged or not"):
        open_picture(b"<html></html>", "cat.png")
