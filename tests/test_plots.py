"""Plots: many pictures of one request along two axes, each a job that outlives the program."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.engine.board import Board
from backend.engine.engine import Engine
from backend.engine.job import JobState
from backend.engine.plot_cells import in_order
from backend.engine.plot_request import Axis, PlotRequest
from backend.errors import RequestError
from backend.http.security import Security
from backend.http.server import build_app
from backend.images.grid import compose_grid
from backend.images.png_text import read_png_text
from backend.request import GenerationRequest
from tests.http_server import client_of
from tests.merging_engine import TIMEOUT, half_of, merging_engine, picture_request, run

STRENGTHS, NUMBERS = (0.0, 0.5, 1.0), (1, 2)
ALPHAS = Axis(kind="parameter", target="alpha", values=STRENGTHS)
SEEDS = Axis(kind="seed", values=NUMBERS)


@pytest.fixture
def engine(tmp_path: Path):
    with merging_engine(tmp_path) as engine:
        yield engine


def ended(engine: Engine, plot: Board) -> Board:
    for cell in plot.cells:
        engine.wait(cell.job, TIMEOUT)
    # The board hears of the last job right after whoever waits for it.
    engine.wait(engine.submit(picture_request()), TIMEOUT)
    return engine.boards.find(plot.id)


def pixels(path: str) -> bytes:
    return Image.open(path).tobytes()


def test_every_cell_is_the_picture_that_its_request_makes(engine: Engine) -> None:
    plot = ended(
        engine, engine.submit_plot(PlotRequest(request=picture_request(recipe=half_of()), axes=(ALPHAS, SEEDS)))
    )
    assert [(cell.x, cell.y, cell.state) for cell in plot.cells] == [(x, y, "done") for y in range(2) for x in range(3)]
    for cell in plot.cells:
        recipe = half_of(alpha=STRENGTHS[cell.x])
        alone = run(engine, GenerationRequest(prompt="a cat", steps=2, seed=NUMBERS[cell.y], recipe=recipe))
        assert pixels(cell.image) == pixels(str(alone.images[0].path))
    assert len({pixels(cell.image) for cell in plot.cells}) == 6


def test_when_all_have_ended_there_is_a_picture_of_all(engine: Engine) -> None:
    plot = ended(
        engine, engine.submit_plot(PlotRequest(request=picture_request(recipe=half_of()), axes=(ALPHAS, SEEDS)))
    )
    grid = Image.open(plot.grid)
    assert grid.width > 3 * 64
    assert grid.height > 2 * 64
    assert "emulsion-plot" in read_png_text(Path(plot.grid).read_bytes())
    again = PlotRequest.from_mapping(json.loads(read_png_text(Path(plot.grid).read_bytes())["emulsion-plot"]))
    assert again == plot.request


def test_a_plot_is_one_use_of_its_recipe(engine: Engine) -> None:
    ended(engine, engine.submit_plot(PlotRequest(request=picture_request(recipe=half_of()), axes=(ALPHAS,))))
    assert len(engine.history.newest_first()) == 1


@pytest.mark.parametrize(
    "axis",
    [
        Axis(kind="block", target="OUT05", values=(0.0, 1.0)),
        Axis(kind="rule", values=("lerp", "slerp")),
        Axis(kind="checkpoint", values=("a", "b")),
        Axis(kind="steps", values=(1, 2)),
        Axis(kind="guidance_scale", values=(1.0, 8.0)),
    ],
    ids=lambda axis: axis.kind,
)
def test_everything_that_an_axis_can_change_changes_the_picture(engine: Engine, axis: Axis) -> None:
    plot = ended(engine, engine.submit_plot(PlotRequest(request=picture_request(recipe=half_of()), axes=(axis,))))
    assert [cell.error for cell in plot.cells] == ["", ""]
    first, second = (pixels(cell.image) for cell in plot.cells)
    assert first != second


def test_a_stored_recipe_can_be_plotted_by_its_name(engine: Engine) -> None:
    engine.save_recipe("half", half_of())
    plot = engine.submit_plot(PlotRequest(request=picture_request(checkpoint="half"), axes=(ALPHAS,)))
    assert len(ended(engine, plot).cells) == 3


def test_cells_that_share_a_model_follow_one_another() -> None:
    request = picture_request(recipe=half_of())
    assert list(in_order(PlotRequest(request=request, axes=(ALPHAS, SEEDS)))) == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)
    ]  # fmt: skip
    assert list(in_order(PlotRequest(request=request, axes=(SEEDS, ALPHAS)))) == [
        (0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)
    ]  # fmt: skip


def test_a_plot_of_which_one_cell_is_refused_queues_none(engine: Engine) -> None:
    axis = Axis(kind="checkpoint", values=("a", "no such"))
    with pytest.raises(RequestError, match="no such") as raised:
        engine.submit_plot(PlotRequest(request=picture_request(), axes=(axis,)))
    assert raised.value.field == "x.values"
    with pytest.raises(RequestError, match="merged model"):
        engine.submit_plot(PlotRequest(request=picture_request(checkpoint="a"), axes=(ALPHAS,)))
    assert engine.boards.all() == []
    assert all(job.state is not JobState.QUEUED for job in engine.jobs())


def test_a_plot_survives_a_restart(tmp_path: Path) -> None:
    with merging_engine(tmp_path, persistent=True) as engine:
        request = GenerationRequest(prompt="a cat", steps=30, seed=5, recipe=half_of())
        plot = engine.submit_plot(PlotRequest(request=request, axes=(ALPHAS,)))
        engine.wait(plot.cells[0].job, TIMEOUT)
    with merging_engine(tmp_path, persistent=True) as engine:
        assert engine.boards.find(plot.id).request == plot.request
        found = ended(engine, engine.boards.find(plot.id))
        assert [cell.state for cell in found.cells] == ["done"] * 3
        assert Path(found.grid).exists()
    with merging_engine(tmp_path, persistent=True) as engine:
        assert engine.boards.find(plot.id) == found


def test_a_plot_that_is_removed_runs_no_more_and_keeps_its_pictures(engine: Engine) -> None:
    request = GenerationRequest(prompt="a cat", steps=40, seed=5, recipe=half_of())
    plot = engine.submit_plot(PlotRequest(request=request, axes=(ALPHAS,)))
    engine.wait(plot.cells[0].job, TIMEOUT)
    engine.boards.remove(plot.id)
    states = [engine.wait(cell.job, TIMEOUT).state for cell in plot.cells]
    assert states[-1] is JobState.CANCELLED
    assert engine.job(plot.cells[0].job).images[0].path.exists()
    assert engine.boards.all() == []


def test_cancelled_cells_are_shown_as_such(engine: Engine) -> None:
    request = GenerationRequest(prompt="a cat", steps=40, seed=5, recipe=half_of())
    plot = engine.submit_plot(PlotRequest(request=request, axes=(ALPHAS,)))
    engine.cancel(plot.cells[2].job)
    found = ended(engine, plot)
    assert [cell.state for cell in found.cells] == ["done", "done", "cancelled"]
    assert Path(found.grid).exists()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "request"),
        ({"request": {}}, "x"),
        ({"request": {}, "x": {"kind": "?", "values": [1]}}, "x.kind"),
        ({"request": {}, "x": {"kind": "seed", "values": []}}, "x.values"),
        ({"request": {}, "x": {"kind": "seed", "values": [1.5]}}, "x.values"),
        ({"request": {}, "x": {"kind": "seed", "values": [True]}}, "x.values"),
        ({"request": {}, "x": {"kind": "rule", "values": [1]}}, "x.values"),
        ({"request": {}, "x": {"kind": "block", "values": [1]}}, "x.target"),
        ({"request": {}, "x": {"kind": "seed", "values": [1]}, "z": 1}, "z"),
        ({"request": {}, "x": {"kind": "seed", "values": [1]}, "w": 1}, "w"),
        ({"request": {}, "x": {"kind": "seed", "values": list(range(64))},
          "y": {"kind": "steps", "values": list(range(1, 65))}}, "y"),
    ],
)  # fmt: skip
def test_plots_are_checked(body: dict[str, object], field: str) -> None:
    with pytest.raises(RequestError) as raised:
        PlotRequest.from_mapping(body)
    assert raised.value.field == field


def test_plots_over_http(engine: Engine) -> None:
    body = {
        "request": {"prompt": "a cat", "steps": 2, "seed": 5, "recipe": half_of().to_mapping()},
        "x": {"kind": "parameter", "target": "alpha", "values": [0, 1]},
        "y": None,
    }
    with client_of(build_app(engine, Security())) as client:
        answer = client.post("/api/v1/plots", json=body)
        assert answer.status_code == 202, answer.text
        plot_id = answer.json()["id"]
        ended(engine, engine.boards.find(plot_id))
        shown = client.get(f"/api/v1/plots/{plot_id}").json()
        assert shown["x"]["label"] == "alpha"
        assert [cell["state"] for cell in shown["cells"]] == ["done", "done"]
        assert client.get("/" + shown["cells"][0]["image"]["url"]).status_code == 200
        assert client.get("/" + shown["cells"][0]["image"]["thumbnail"]).status_code == 200
        assert client.get("/" + shown["grid"]).status_code == 200
        assert [plot["id"] for plot in client.get("/api/v1/plots").json()] == [plot_id]
        assert client.delete(f"/api/v1/plots/{plot_id}").status_code == 200
        assert client.get(f"/api/v1/plots/{plot_id}").status_code == 404


def test_a_grid_shows_every_picture_in_its_place() -> None:
    colours = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), None]]
    cells = [[Image.new("RGB", (64, 48), c) if c else "failed" for c in row] for row in colours]
    grid = compose_grid(cells, ["left", "right"], ["top", "bottom"])
    for y, row in enumerate(colours):
        for x, colour in enumerate(row):
            if colour:
                rows, columns = np.nonzero((grid == colour).all(axis=2))
                assert (len(rows), np.ptp(rows), np.ptp(columns)) == (64 * 48, 47, 63)
                assert (rows.min() > grid.shape[0] // 2) == (y == 1)
                assert (columns.min() > grid.shape[1] // 2) == (x == 1)
