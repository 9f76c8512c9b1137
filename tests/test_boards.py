"""Boards: what is queued when, what becomes of cells, and what a restart finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.engine.batch_items import BatchItems
from backend.engine.board_store import BoardStore
from backend.engine.boards import MAX_AHEAD, Boards
from backend.engine.catalog import Catalog
from backend.engine.loopback import Loopback
from backend.engine.plot_request import Axis, PlotRequest
from backend.errors import RequestError, UnknownName
from backend.images.grid import MAX_PIXELS, Section, cell_size, compose_grid, compose_sections
from backend.images.png_text import read_png_text
from backend.init_image import InitImage
from backend.pipeline.infotext import read_infotext
from backend.request import GenerationRequest
from tests.fake_queue import FakeQueue

REQUEST = GenerationRequest(prompt="a cat", seed=5)
PICTURE = "ab" * 32
SEEDS = Axis(kind="seed", values=(1, 2, 3))


class Desk:
    """Boards on a queue by hand; `restart` opens the same file again."""

    def __init__(self, folder: Path, queue: FakeQueue) -> None:
        self.file = folder / "boards.sqlite"
        self.queue = queue
        self.boards = self._open()

    def _open(self) -> Boards:
        catalog = Catalog.builtin()
        items = BatchItems(catalog, self.queue.keep, lambda sha256: self.queue.stored[sha256])
        boards = Boards(BoardStore.open(self.file), self.queue.for_boards(), catalog.rules, items)
        self.queue.hear = boards.hear
        return boards

    def restart(self) -> None:
        self.boards.close()
        self.boards = self._open()
        self.boards.take_up()

    def states(self, board_id: str) -> list[str]:
        return [cell.state for cell in self.boards.find(board_id).cells]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, FakeQueue(tmp_path))


def plot(*axes: Axis, request: GenerationRequest = REQUEST, loopback: Loopback | None = None) -> PlotRequest:
    return PlotRequest(request=request, axes=axes, loopback=loopback)


def many(count: int) -> Axis:
    return Axis(kind="seed", values=tuple(range(count)))


def test_a_large_board_is_queued_a_few_at_a_time(desk: Desk) -> None:
    board = desk.boards.submit_plot(plot(many(200)))
    assert len(desk.queue.waiting()) == MAX_AHEAD
    desk.queue.finish(desk.queue.waiting()[0])
    assert len(desk.queue.waiting()) == MAX_AHEAD
    desk.queue.finish_all()
    assert desk.states(board.id) == ["done"] * 200
    asked = [job.request for job in desk.queue.jobs.values()]
    assert [request.seed for request in asked if isinstance(request, GenerationRequest)] == list(range(200))


def test_a_full_queue_makes_boards_wait(tmp_path: Path) -> None:
    desk = Desk(tmp_path, FakeQueue(tmp_path, places=2))
    board = desk.boards.submit_plot(plot(SEEDS))
    assert desk.states(board.id) == ["queued", "queued", "waiting"]
    desk.queue.finish(desk.queue.waiting()[0])
    assert desk.states(board.id) == ["done", "queued", "queued"]


def test_the_rest_of_a_board_is_queued_after_a_restart(tmp_path: Path) -> None:
    desk = Desk(tmp_path, FakeQueue(tmp_path, places=1))
    board = desk.boards.submit_plot(plot(SEEDS))
    desk.queue.finish(desk.queue.waiting()[0])
    desk.restart()
    assert desk.states(board.id) == ["done", "queued", "waiting"]
    desk.queue.finish_all()
    found = desk.boards.find(board.id)
    assert [cell.state for cell in found.cells] == ["done"] * 3
    assert Path(found.grid).exists()
    desk.restart()
    assert desk.boards.find(board.id) == found
    assert len(desk.queue.jobs) == 3


def test_what_ended_while_the_program_was_away_is_seen(desk: Desk) -> None:
    board = desk.boards.submit_plot(plot(SEEDS))
    desk.queue.hear = lambda event: None
    desk.queue.finish_all()
    del desk.queue.jobs["job-1"]
    desk.restart()
    assert desk.states(board.id) == ["done", "failed", "done"]


def test_plots_of_earlier_versions_move_in(tmp_path: Path) -> None:
    old = {
        "id": "0123456789abcdef",
        "time": "2026-01-01T00:00:00.000000+00:00",
        "request": {
            "request": REQUEST.to_mapping(),
            "x": {"kind": "parameter", "target": "alpha", "values": [0.0, 1.0]},
            "y": None,
        },
        "cells": [
            {"x": x, "y": 0, "job": f"old-{x}", "state": "done", "image": f"{x}.png", "width": 8, "height": 8,
             "error": ""}
            for x in range(2)
        ],
        "grid": "grid.png",
    }  # fmt: skip
    folder = tmp_path / "plots"
    folder.mkdir()
    (folder / "0123456789abcdef.json").write_text(json.dumps(old))
    (folder / "broken.json").write_text("{")
    store = BoardStore.open(tmp_path / "boards.sqlite")
    store.take_in(folder)
    (board,) = store.all()
    assert (board.id, board.grid) == ("0123456789abcdef", "grid.png")
    assert [(cell.at, cell.job, cell.image) for cell in board.cells] == [
        ((0,), "old-0", "0.png"),
        ((1,), "old-1", "1.png"),
    ]
    assert [file.name for file in folder.iterdir()] == ["broken.json"]


def test_a_file_that_is_no_list_of_boards_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "boards.sqlite"
    file.write_bytes(b"no database at all" * 100)
    desk = Desk(tmp_path, FakeQueue(tmp_path))
    board = desk.boards.submit_plot(plot(SEEDS))
    desk.restart()
    assert len(desk.boards.find(board.id).cells) == 3
    assert "boards.unreadable.sqlite" in caplog.text
    assert (tmp_path / "boards.unreadable.sqlite").read_bytes().startswith(b"no database")


def test_where_nothing_can_be_written_boards_work_and_the_log_says_that_they_are_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "boards.sqlite").mkdir()
    desk = Desk(tmp_path, FakeQueue(tmp_path))
    assert len(desk.boards.submit_plot(plot(SEEDS)).cells) == 3
    assert "not kept" in caplog.text


def test_a_cell_that_is_refused_when_its_turn_comes_fails_alone(tmp_path: Path) -> None:
    desk = Desk(tmp_path, FakeQueue(tmp_path, refused="dog"))
    board = desk.boards.submit_plot(plot(Axis(kind="prompt", values=("a cat", "a dog", "an owl"))))
    assert desk.states(board.id) == ["queued", "failed", "queued"]
    assert "refused" in desk.boards.find(board.id).cells[1].error


def test_what_failed_or_was_cancelled_can_be_tried_again(desk: Desk) -> None:
    board = desk.boards.submit_plot(plot(SEEDS))
    first, second, third = desk.queue.waiting()
    desk.queue.finish(first)
    desk.queue.fail(second)
    desk.queue.cancel(third.id)
    assert desk.states(board.id) == ["done", "failed", "cancelled"]
    assert desk.boards.find(board.id).cells[1].error == "It broke."
    before = desk.boards.find(board.id).grid
    desk.boards.retry(board.id)
    assert desk.states(board.id) == ["done", "queued", "queued"]
    assert [job.request for job in desk.queue.waiting()] == [second.request, third.request]
    desk.queue.finish_all()
    found = desk.boards.find(board.id)
    assert found.has_ended
    assert found.grid != before


def test_a_board_that_is_cancelled_queues_nothing_more(tmp_path: Path) -> None:
    desk = Desk(tmp_path, FakeQueue(tmp_path, places=1))
    board = desk.boards.submit_plot(plot(SEEDS))
    desk.boards.cancel(board.id)
    assert desk.states(board.id) == ["cancelled"] * 3
    assert len(desk.queue.jobs) == 1
    assert desk.boards.find(board.id).grid


def test_a_board_that_is_removed_is_gone_after_a_restart(desk: Desk) -> None:
    board = desk.boards.submit_plot(plot(SEEDS))
    desk.boards.remove(board.id)
    assert desk.queue.waiting() == []
    desk.restart()
    with pytest.raises(UnknownName):
        desk.boards.find(board.id)


def test_each_round_of_a_loopback_begins_with_the_picture_before(desk: Desk) -> None:
    request = GenerationRequest(prompt="a cat", seed=5, init=InitImage(picture=PICTURE, denoising_strength=0.5))
    loop = Loopback(rounds=3, final_strength=0.3)
    board = desk.boards.submit_plot(plot(Axis(kind="steps", values=(1, 2)), request=request, loopback=loop))
    assert desk.states(board.id) == ["queued", "queued", *["waiting"] * 4]
    desk.queue.finish_all()
    found = desk.boards.find(board.id)
    assert [cell.at for cell in found.cells] == [(x, number) for number in range(3) for x in range(2)]
    asked = {cell.at: desk.queue.jobs[cell.job].request for cell in found.cells}
    images = {cell.at: Path(cell.image).read_bytes() for cell in found.cells}
    for x in range(2):
        for number in range(3):
            one = asked[x, number]
            assert isinstance(one, GenerationRequest)
            assert one.init is not None
            assert one.seed == 5 + number
            assert one.init.denoising_strength == pytest.approx(0.5 - 0.1 * number)
            if number:
                assert desk.queue.stored[one.init.picture] == images[x, number - 1]
            else:
                assert one.init.picture == PICTURE


def test_a_loopback_goes_on_after_a_restart_and_stops_behind_a_broken_round(desk: Desk) -> None:
    request = GenerationRequest(prompt="a cat", seed=5, init=InitImage(picture=PICTURE))
    board = desk.boards.submit_plot(plot(request=request, loopback=Loopback(rounds=4)))
    desk.queue.finish(desk.queue.waiting()[0])
    desk.restart()
    assert desk.states(board.id) == ["done", "queued", "waiting", "waiting"]
    desk.queue.fail(desk.queue.waiting()[0])
    assert desk.states(board.id) == ["done", "failed", "failed", "failed"]
    desk.boards.retry(board.id)
    desk.queue.finish_all()
    assert desk.states(board.id) == ["done"] * 4


def test_the_grid_says_what_changes_in_the_keys_of_a1111(desk: Desk) -> None:
    axes = (SEEDS, Axis(kind="prompt_replace", values=("cat", "dog, wet")), Axis(kind="steps", values=(4, 8)))
    board = desk.boards.submit_plot(plot(*axes))
    desk.queue.finish_all()
    texts = read_png_text(Path(desk.boards.find(board.id).grid).read_bytes())
    said = read_infotext(texts["parameters"])
    assert said.prompt == "a cat"
    wanted = {
        "Script": "X/Y/Z plot",
        "X Type": "Seed",
        "X Values": "1, 2, 3",
        "Fixed X Values": "1, 2, 3",
        "Y Type": "Prompt S/R",
        "Y Values": 'cat, "dog, wet"',
        "Z Type": "Steps",
        "Z Values": "4, 8",
    }
    assert {key: said.parameters.get(key) for key in wanted} == wanted
    assert PlotRequest.from_mapping(json.loads(texts["emulsion-plot"])) == board.request


def test_a_picture_of_what_is_finished_can_be_had_at_any_time(desk: Desk) -> None:
    board = desk.boards.submit_plot(plot(SEEDS))
    desk.queue.finish(desk.queue.waiting()[0])
    grid = Image.open(desk.boards.save_grid(board.id))
    assert grid.width > 3 * 32
    assert not desk.boards.find(board.id).grid


def test_more_than_two_axes_make_several_grids_with_headings() -> None:
    def section(heading: str, colour: tuple[int, int, int]) -> Section:
        return Section(heading=heading, cells=[[Image.new("RGB", (64, 48), colour)] * 2])

    one = compose_sections([section("first", (255, 0, 0))], ["a", "b"], [])
    both = compose_sections([section("first", (255, 0, 0)), section("second", (0, 0, 255))], ["a", "b"], [])
    assert both.shape == (2 * one.shape[0], one.shape[1], 3)
    assert (both[: one.shape[0]] == one).all()
    assert np.count_nonzero((both == (0, 0, 255)).all(axis=2)) == 2 * 64 * 48


def test_a_grid_of_too_many_pixels_gets_smaller_and_is_never_refused() -> None:
    width, height = cell_size([(4096, 4096)] * 100, 100)
    assert 0.98 * MAX_PIXELS < 100 * width * height <= MAX_PIXELS
    grid = compose_grid([[Image.new("RGB", (7000, 7000))]], ["a"], [])
    assert grid.shape[0] * grid.shape[1] < 1.1 * MAX_PIXELS


def test_lines_are_shown_in_rows(desk: Desk) -> None:
    board = desk.boards.submit_plot(plot(Axis(kind="line", values=tuple("abcdefghi"))))
    desk.queue.finish_all()
    grid = Image.open(desk.boards.find(board.id).grid)
    assert abs(grid.width - grid.height) < 32


def test_a_bad_value_refuses_the_plot_before_anything_is_queued(desk: Desk) -> None:
    with pytest.raises(RequestError) as raised:
        desk.boards.submit_plot(plot(SEEDS, Axis(kind="steps", values=(1, 0))))
    assert raised.value.field == "y.values"
    assert desk.queue.jobs == {}
    assert desk.boards.all() == []
