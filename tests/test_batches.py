"""Batches: a picture for every file of a folder or every upload, with masks and what the pictures say themselves."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.engine.batch_items import BatchItems
from backend.engine.batch_request import BatchRequest
from backend.engine.board_store import BoardStore
from backend.engine.boards import MAX_AHEAD, Boards
from backend.engine.catalog import Catalog
from backend.engine.loopback import Loopback
from backend.engine.picture_store import PictureStore
from backend.errors import RequestError
from backend.images.png_text import encode_png
from backend.init_image import InitImage, MaskInput
from backend.request import GenerationRequest
from tests.fake_queue import FakeQueue

REQUEST = GenerationRequest(prompt="a cat", seed=5, steps=3)


class Desk:
    """Boards on a queue by hand, with a real store of pictures."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.queue = FakeQueue(folder, **options)
        self.store = PictureStore(folder / "store")
        catalog = Catalog.builtin()
        items = BatchItems(catalog, lambda data, name: self.store.add(data, name).sha256, self.store.data)
        self.boards = Boards(BoardStore.in_memory(), self.queue.for_boards(), catalog.rules, items)
        self.queue.hear = self.boards.hear

    def run(self, **values: Any) -> list[tuple[str, str]]:
        """States and errors of the batch's cells."""
        self.asked = self.boards.submit_batch(BatchRequest(request=values.pop("request", REQUEST), **values))
        self.queue.finish_all()
        return [(cell.state, cell.error) for cell in self.boards.find(self.asked.id).cells]

    def requests(self) -> list[GenerationRequest]:
        return [job.request for job in self.queue.jobs.values() if isinstance(job.request, GenerationRequest)]

    def inits(self) -> list[InitImage]:
        return [request.init for request in self.requests() if request.init is not None]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "in").mkdir()
    (tmp_path / "masks").mkdir()
    return Desk(tmp_path)


@pytest.fixture
def folder(tmp_path: Path, desk: Desk) -> Path:
    return tmp_path / "in"


@pytest.fixture
def masks(tmp_path: Path, desk: Desk) -> Path:
    return tmp_path / "masks"


def png(shade: int, texts: dict[str, str] | None = None) -> bytes:
    return encode_png(np.full((16, 24, 3), shade, np.uint8), texts or {})


def test_every_picture_of_a_folder_is_begun_with_in_the_order_of_names(desk: Desk, folder: Path) -> None:
    for number, name in enumerate(["b.png", "A.PNG", "c.png"]):
        (folder / name).write_bytes(png(number))
    Image.new("RGB", (16, 16), "red").save(folder / "d.jpg")
    (folder / "notes.txt").write_text("no picture")
    assert desk.run(folder=str(folder)) == [("done", "")] * 4
    shades = [desk.store.open(init.picture).convert("RGB").getpixel((0, 0)) for init in desk.inits()[:3]]
    assert shades == [(1, 1, 1), (0, 0, 0), (2, 2, 2)]
    assert [request.prompt for request in desk.requests()] == ["a cat"] * 4


def test_a_broken_file_fails_alone(desk: Desk, folder: Path) -> None:
    (folder / "a.png").write_bytes(png(1))
    (folder / "b.png").write_bytes(b"")
    (folder / "c.png").write_bytes(png(3)[:60])
    (folder / "d.png").write_bytes(png(4))
    found = desk.run(folder=str(folder))
    assert [state for state, _ in found] == ["done", "failed", "failed", "done"]
    assert "b.png" in found[1][1]
    assert "c.png" in found[2][1]


def test_a_picture_that_goes_away_fails_alone(tmp_path: Path) -> None:
    desk = Desk(tmp_path, places=1)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(png(ord(name)))
    board = desk.boards.submit_batch(BatchRequest(request=REQUEST, folder=str(folder)))
    (folder / "b.png").unlink()
    desk.queue.finish_all()
    assert [cell.state for cell in desk.boards.find(board.id).cells] == ["done", "failed", "done"]


def test_uploaded_pictures_go_by_their_hashes(desk: Desk) -> None:
    hashes = [desk.store.add(png(shade)).sha256 for shade in (1, 2)]
    batch = BatchRequest.from_mapping({"request": REQUEST.to_mapping(), "pictures": [*hashes, "ab" * 32]})
    board = desk.boards.submit_batch(batch)
    desk.queue.finish_all()
    assert [init.picture for init in desk.inits()] == hashes
    last = desk.boards.find(board.id).cells[2]
    assert (last.state, "picture" in last.error) in [("failed", True), ("done", False)]


def test_masks_go_by_the_names_of_pictures(desk: Desk, folder: Path, masks: Path) -> None:
    for name in "abc":
        (folder / f"{name}.png").write_bytes(png(ord(name)))
    (masks / "a.png").write_bytes(png(10))
    (masks / "b.png").write_bytes(png(20))
    usual = InitImage(picture="ab" * 32, mask=MaskInput(picture="ab" * 32, blur=7))
    found = desk.run(folder=str(folder), mask_folder=str(masks), request=GenerationRequest(seed=5, init=usual))
    assert [state for state, _ in found] == ["done", "done", "failed"]
    assert "no mask called c" in found[2][1]
    used = [init.mask for init in desk.inits() if init.mask is not None]
    assert [desk.store.open(mask.picture).convert("RGB").getpixel((0, 0)) for mask in used] == [(10,) * 3, (20,) * 3]
    assert [mask.blur for mask in used] == [7, 7]


def test_one_mask_is_for_all(desk: Desk, folder: Path, masks: Path) -> None:
    for name in "ab":
        (folder / f"{name}.png").write_bytes(png(ord(name)))
    (masks / "any.png").write_bytes(png(10))
    mask = desk.store.add(png(10)).sha256
    assert desk.run(folder=str(folder), mask_folder=str(masks)) == [("done", "")] * 2
    assert desk.run(folder=str(folder), mask=mask) == [("done", "")] * 2
    assert [init.mask for init in desk.inits()] == [MaskInput(picture=mask)] * 4


def test_pictures_say_themselves_what_is_read_in_them(desk: Desk, folder: Path) -> None:
    infotext = (
        "an owl\nNegative prompt: dull\nSteps: 9, Sampler: DPM++ 2M Exponential, CFG scale: 4, Seed: 77, Size: 64x128"
    )
    exact = json.dumps({"request": GenerationRequest(prompt="a frog", seed=8, steps=2).to_mapping()})
    (folder / "a.png").write_bytes(png(1, {"parameters": infotext}))
    (folder / "b.png").write_bytes(png(2, {"parameters": "other", "emulsion": exact}))
    (folder / "c.png").write_bytes(png(3))
    reads = ("prompt", "negative_prompt", "seed", "sampler", "schedule", "size")
    assert desk.run(folder=str(folder), reads=reads) == [("done", "")] * 3
    first, second, third = desk.requests()
    assert (first.prompt, first.negative_prompt, first.seed, first.steps) == ("an owl", "dull", 77, 3)
    assert (first.sampler, first.schedule, first.width, first.height) == ("dpmpp_2m", "exponential", 64, 128)
    assert (second.prompt, second.seed) == ("a frog", 8)
    assert (third.prompt, third.seed, third.sampler) == ("a cat", 5, None)


def test_a_picture_whose_settings_cannot_be_fails_alone(desk: Desk, folder: Path) -> None:
    infotext = "an owl\nSteps: 9, Sampler: Nobody knows it, CFG scale: 4, Seed: 77, Size: 64x128"
    (folder / "a.png").write_bytes(png(1, {"parameters": infotext}))
    (folder / "b.png").write_bytes(png(2))
    found = desk.run(folder=str(folder), reads=("sampler",))
    assert [state for state, _ in found] == ["failed", "done"]
    assert "Nobody knows it" in found[0][1]


def test_ten_thousand_pictures_are_queued_a_few_at_a_time(desk: Desk, folder: Path) -> None:
    for number in range(10_000):
        (folder / f"{number:05}.png").touch()
    data = png(1)
    for number in range(200):
        (folder / f"{number:05}.png").write_bytes(data)
    board = desk.boards.submit_batch(BatchRequest(request=REQUEST, folder=str(folder)))
    assert len(board.cells) == 10_000
    assert len(desk.queue.waiting()) == MAX_AHEAD
    for _ in range(20):
        desk.queue.finish(desk.queue.waiting()[0])
    assert len(desk.queue.jobs) == MAX_AHEAD + 20
    desk.boards.cancel(board.id)
    assert {cell.state for cell in desk.boards.find(board.id).cells} == {"done", "cancelled"}


def test_each_picture_can_go_through_a_loopback(desk: Desk, folder: Path) -> None:
    (folder / "a.png").write_bytes(png(1))
    (folder / "b.png").write_bytes(b"broken")
    found = desk.run(folder=str(folder), loopback=Loopback(rounds=2))
    assert [state for state, _ in found] == ["done", "failed", "done", "failed"]
    assert [request.seed for request in desk.requests()] == [5, 6]


def test_batches_come_back_from_their_json_values(desk: Desk) -> None:
    sha256 = desk.store.add(png(1)).sha256
    batch = BatchRequest.from_mapping(
        {"request": {"prompt": "a"}, "pictures": [sha256], "reads": ["prompt"], "loopback": {"rounds": 2}}
    )
    assert BatchRequest.from_mapping(batch.to_mapping()) == batch


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({}, "pictures"),
        ({"pictures": "all"}, "pictures"),
        ({"pictures": ["short"]}, "pictures"),
        ({"folder": 5}, "folder"),
        ({"folder": "relative"}, "folder"),
        ({"folder": "/no/such/folder"}, "folder"),
        ({"folder": "{empty}"}, "folder"),
        ({"folder": "{in}", "mask_folder": "{empty}"}, "mask_folder"),
        ({"folder": "{in}", "mask": "short"}, "mask"),
        ({"folder": "{in}", "mask": "ab" * 32, "mask_folder": "{in}"}, "mask"),
        ({"folder": "{in}", "reads": ["mood"]}, "reads"),
        ({"folder": "{in}", "reads": [1]}, "reads"),
        ({"folder": "{in}", "more": 1}, "more"),
        ({"folder": "{in}", "loopback": {"rounds": -1}}, "loopback.rounds"),
    ],
)
def test_batches_are_checked(desk: Desk, folder: Path, tmp_path: Path, values: dict[str, Any], field: str) -> None:
    (folder / "a.png").write_bytes(png(1))
    (tmp_path / "empty").mkdir()
    places = {"{in}": str(folder), "{empty}": str(tmp_path / "empty")}
    asked = {name: places.get(value, value) if isinstance(value, str) else value for name, value in values.items()}
    with pytest.raises(RequestError) as raised:
        desk.boards.submit_batch(BatchRequest.from_mapping({"request": {}, **asked}))
    assert raised.value.field == field
    assert desk.queue.jobs == {}


def test_turned_and_transparent_pictures_are_kept_as_they_are(desk: Desk, folder: Path) -> None:
    data = io.BytesIO()
    Image.new("RGBA", (16, 24), (1, 2, 3, 0)).save(data, "PNG")
    (folder / "a.png").write_bytes(data.getvalue())
    assert desk.run(folder=str(folder)) == [("done", "")]
    assert desk.store.data(desk.inits()[0].picture) == data.getvalue()
