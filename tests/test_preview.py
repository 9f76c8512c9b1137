"""Live previews: the newest latents become a JPEG, and nobody waits for it."""

import io
import threading

import torch
from PIL import Image

from backend.families.family import LatentPreview
from backend.pipeline.preview import MAX_SIDE, PreviewMaker, preview_jpeg

RED_FROM_FIRST = LatentPreview(matrix=torch.tensor([[1.0, 0, 0]] + [[0.0, 0, 0]] * 3), bias=torch.zeros(3))


def test_latents_show_their_colours_side_by_side() -> None:
    latents = torch.zeros(2, 4, 8, 8)
    latents[1, 0] = 1
    image = Image.open(io.BytesIO(preview_jpeg(latents, RED_FROM_FIRST)))
    assert image.size == (128, 64)
    left, right = image.getpixel((16, 32)), image.getpixel((112, 32))
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    assert max(left) < 12
    assert right[0] > 240
    assert max(right[1:]) < 12


def test_large_pictures_have_small_previews() -> None:
    image = Image.open(io.BytesIO(preview_jpeg(torch.zeros(1, 4, 256, 128), RED_FROM_FIRST)))
    assert image.size == (MAX_SIDE // 2, MAX_SIDE)


def test_asking_does_not_wait_and_the_newest_replaces_older_ones() -> None:
    may_go_on, seen, came = threading.Event(), list[bytes](), threading.Event()

    def slow_colours() -> LatentPreview:
        may_go_on.wait(30)
        return RED_FROM_FIRST

    def on_preview(jpeg: bytes) -> None:
        seen.append(jpeg)
        if len(seen) == 2:
            came.set()

    maker = PreviewMaker(slow_colours, on_preview)
    latents = torch.zeros(1, 4, 8, 8)
    maker.show(latents)
    while maker.is_waiting:  # until the thread has taken the first ones
        pass
    for value in (0.2, 0.5, 1.0):
        newest = latents.clone()
        newest[:, 0] = value
        maker.show(newest)
    may_go_on.set()
    assert came.wait(30)
    maker.close()
    assert len(seen) == 2
    pixel = Image.open(io.BytesIO(seen[1])).getpixel((32, 32))
    assert isinstance(pixel, tuple)
    assert pixel[0] > 240


def test_closing_waits_for_a_preview_that_is_being_made_and_reports_none() -> None:
    may_go_on, taken, seen = threading.Event(), threading.Event(), list[bytes]()

    def slow_look() -> LatentPreview:
        taken.set()
        may_go_on.wait(30)
        return RED_FROM_FIRST

    maker = PreviewMaker(slow_look, seen.append)
    maker.show(torch.zeros(1, 4, 8, 8))
    assert taken.wait(30)
    closing = threading.Thread(target=maker.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()  # a program that ended now would break off PyTorch in the middle
    may_go_on.set()
    closing.join(30)
    assert not closing.is_alive()
    assert seen == []


def test_a_closed_maker_reports_nothing_more() -> None:
    seen: list[bytes] = []
    maker = PreviewMaker(lambda: RED_FROM_FIRST, seen.append)
    maker.close()
    maker.show(torch.zeros(1, 4, 8, 8))
    assert seen == []
