"""Plots: many pictures of one request along two axes, each a job that outlives the program."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.diffusion.guidance import Conditioning
from backend.engine.board import Board
from backend.engine.engine import Engine
from backend.engine.job import JobState
from backend.engine.loopback import Loopback
from backend.engine.plot_cells import in_order
from backend.engine.plot_request import Axis, PlotRequest
from backend.engine.settings import Settings
from backend.errors import RequestError
from backend.families.family import Machine, Model, ModelFiles, Prompt
from backend.http.security import Security
from backend.http.server import build_app
from backend.images.grid import compose_grid
from backend.images.png_text import read_png_text
from backend.init_image import InitImage
from backend.request import GenerationRequest
from tests.http_server import client_of
from tests.merging_engine import TIMEOUT, half_of, merging_engine, picture_request, run
from tests.tiny_checkpoint import write_tiny_checkpoint

STRENGTHS, NUMBERS = (0.0, 0.5, 1.0), (1, 2)
ALPHAS = Axis(kind="parameter", target="alpha", values=STRENGTHS)
SEEDS = Axis(kind="seed", values=NUMBERS)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with merging_engine(tmp_path_factory.mktemp("plots")) as engine:
        yield engine


@pytest.fixture
def engine(shared: Engine) -> Iterator[Engine]:
    yield shared
    for board in shared.boards.all():
        shared.boards.remove(board.id)


def ended(engine: Engine, board: Board) -> Board:
    """The board with its grid, which is composed right after the last job has ended."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        found = engine.boards.find(board.id)
        if found.has_ended and (found.grid or not isinstance(found.request, PlotRequest)):
            return found
        time.sleep(0.02)
    raise AssertionError("the board has not ended")


def not_started(folder: Path) -> Engine:
    """An engine whose jobs wait until it is started."""
    for seed, name in enumerate("ab"):
        path = folder / "models" / "checkpoints" / f"{name}.safetensors"
        if not path.exists():
            write_tiny_checkpoint(path, seed=seed)
    settings = Settings.for_root(folder, force_cpu=True, memory_budget=2**30)
    return Engine.open(settings, start=False)


def pixels(path: str) -> bytes:
    return Image.open(path).tobytes()


@pytest.fixture(scope="module")
def six(shared: Engine) -> Board:
    """Three strengths of a merge by two seeds."""
    request = picture_request(recipe=half_of())
    return ended(shared, shared.submit_plot(PlotRequest(request=request, axes=(ALPHAS, SEEDS))))


def test_every_cell_is_the_picture_that_its_request_makes(shared: Engine, six: Board) -> None:
    assert [(cell.x, cell.y, cell.state) for cell in six.cells] == [(x, y, "done") for y in range(2) for x in range(3)]
    for cell in (six.cells[0], six.cells[4]):
        recipe = half_of(alpha=STRENGTHS[cell.x])
        alone = run(shared, GenerationRequest(prompt="a cat", steps=2, seed=NUMBERS[cell.y], recipe=recipe))
        assert pixels(cell.image) == pixels(str(alone.images[0].path))
    assert len({pixels(cell.image) for cell in six.cells}) == 6


def test_when_all_have_ended_there_is_a_picture_of_all(six: Board) -> None:
    grid = Image.open(six.grid)
    assert grid.width > 3 * 64
    assert grid.height > 2 * 64
    again = PlotRequest.from_mapping(json.loads(read_png_text(Path(six.grid).read_bytes())["emulsion-plot"]))
    assert again == six.request


def test_a_plot_is_one_use_of_its_recipe(engine: Engine) -> None:
    before = len(engine.history.newest_first())
    recipe = half_of(alpha=0.125)
    ended(engine, engine.submit_plot(PlotRequest(request=picture_request(recipe=recipe), axes=(ALPHAS,))))
    assert len(engine.history.newest_first()) == before + 1


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
    engine = not_started(tmp_path)
    plot = engine.submit_plot(PlotRequest(request=picture_request(recipe=half_of()), axes=(ALPHAS,)))
    engine.cancel(plot.cells[1].job)
    engine.close()
    engine = not_started(tmp_path)
    try:
        assert engine.boards.find(plot.id).request == plot.request
        assert [cell.state for cell in engine.boards.find(plot.id).cells] == ["queued", "cancelled", "queued"]
        engine.start()
        found = ended(engine, engine.boards.find(plot.id))
        assert [cell.state for cell in found.cells] == ["done", "cancelled", "done"]
        assert Path(found.grid).exists()
    finally:
        engine.close()
    engine = not_started(tmp_path)
    assert engine.boards.find(plot.id) == found
    engine.close()


def test_a_plot_that_is_removed_runs_no_more_and_keeps_its_pictures(tmp_path: Path) -> None:
    engine = not_started(tmp_path)
    plot = engine.submit_plot(PlotRequest(request=picture_request(recipe=half_of()), axes=(ALPHAS,)))
    engine.boards.remove(plot.id)
    assert [engine.job(cell.job).state for cell in plot.cells] == [JobState.CANCELLED] * 3
    assert engine.boards.all() == []
    kept = engine.submit_plot(PlotRequest(request=picture_request(recipe=half_of()), axes=(SEEDS,)))
    engine.start()
    try:
        found = ended(engine, kept)
        engine.boards.remove(kept.id)
        assert all(Path(cell.image).exists() for cell in found.cells)
    finally:
        engine.close()


class Counted:
    """A model that counts how often it reads a prompt."""

    def __init__(self, model: Model, reads: list[str]) -> None:
        self._model = model
        self._reads = reads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode_prompt(self, prompt: Prompt) -> Conditioning:
        self._reads.append(prompt.text)
        return self._model.encode_prompt(prompt)


def test_cells_that_share_a_model_and_a_prompt_load_and_encode_once(tmp_path: Path) -> None:
    engine = not_started(tmp_path)
    families, loads, reads = engine.catalog.families, [], []
    family = families[engine.describe_checkpoint("a").family]

    def load(files: ModelFiles, machine: Machine) -> Any:
        assert family.load is not None
        loads.append(files)
        return Counted(family.load(files, machine), reads)

    families.remove(family.name)
    families.add(dataclasses.replace(family, load=load))
    axes = (Axis(kind="checkpoint", values=("a", "b")), SEEDS, Axis(kind="prompt_replace", values=("cat", "dog")))
    plot = engine.submit_plot(PlotRequest(request=picture_request(checkpoint="a", negative_prompt="bad"), axes=axes))
    engine.start()
    try:
        found = ended(engine, plot)
    finally:
        engine.close()
    assert [cell.state for cell in found.cells] == ["done"] * 8
    assert len(loads) == 2
    assert sorted(reads) == sorted(["a cat", "a dog", "bad"] * 2)


def test_a_loopback_is_img2img_on_the_results(engine: Engine) -> None:
    first = run(engine, picture_request(checkpoint="a"))
    sha256 = engine.pictures.add(first.images[0].path.read_bytes()).sha256
    request = picture_request(checkpoint="a", init=InitImage(picture=sha256, denoising_strength=0.9))
    found = ended(engine, engine.submit_plot(PlotRequest(request=request, loopback=Loopback(rounds=2))))
    assert [cell.error for cell in found.cells] == ["", ""]
    again = engine.pictures.add(Path(found.cells[0].image).read_bytes()).sha256
    init = InitImage(picture=again, denoising_strength=0.9)
    alone = run(engine, dataclasses.replace(request, init=init, seed=6))
    assert pixels(found.cells[1].image) == pixels(str(alone.images[0].path))


def test_batches_over_http(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"broken")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    body = {"request": {"prompt": "a cat", "steps": 2, "checkpoint": "a"}, "folder": str(tmp_path), "reads": ["seed"]}
    with client_of(build_app(engine, Security())) as client:
        answer = client.post("/api/v1/batches", json=body)
        assert answer.status_code == 202, answer.text
        batch_id = answer.json()["id"]
        ended(engine, engine.boards.find(batch_id))
        shown = client.get(f"/api/v1/batches/{batch_id}").json()
        assert [(cell["item"], cell["state"]) for cell in shown["cells"]] == [("a.png", "done"), ("b.png", "failed")]
        assert client.get("/" + shown["cells"][0]["image"]["url"]).status_code == 200
        (summary,) = client.get("/api/v1/batches").json()
        assert (summary["pictures"], summary["states"]) == (2, {"done": 1, "failed": 1})
        assert "seed" in client.get("/api/v1/batches/fields").json()
        assert client.get(f"/api/v1/plots/{batch_id}").status_code == 404
        Image.new("RGB", (64, 64), "blue").save(tmp_path / "b.png")
        assert client.post(f"/api/v1/batches/{batch_id}/retry").status_code == 200
        assert [cell.state for cell in ended(engine, engine.boards.find(batch_id)).cells] == ["done"] * 2
        assert client.post(f"/api/v1/batches/{batch_id}/cancel").status_code == 200
        assert client.delete(f"/api/v1/batches/{batch_id}").status_code == 200
        assert client.post("/api/v1/batches", json={**body, "folder": "nowhere"}).json()["field"] == "folder"


def test_what_an_axis_can_change_and_what_a_plot_would_come_to_over_http(engine: Engine) -> None:
    run(engine, picture_request(checkpoint="a"))
    with client_of(build_app(engine, Security())) as client:
        kinds = {kind["kind"]: kind for kind in client.get("/api/v1/plots/axes").json()}
        assert [name for name, _ in kinds["checkpoint"]["choices"]][:2] == ["a", "b"]
        assert "euler" in [name for name, _ in kinds["sampler"]["choices"]]
        assert kinds["init.resize"]["choices"][0] == ["stretch", "stretch"]
        body = {"request": {"prompt": "a cat"}, "axes": [{"kind": "seed", "values": "1-3"}]}
        found = client.post("/api/v1/plots/check", json=body).json()
        assert (found["pictures"], found["problem"]) == (3, "")
        assert found["seconds"] > 0
        assert found["axes"][0]["labels"] == ["Seed 1", "Seed 2", "Seed 3"]
        wrong = client.post("/api/v1/plots/check", json={**body, "axes": [{"kind": "steps", "values": "0-3"}]}).json()
        assert (wrong["field"], wrong["pictures"]) == ("x.values", 0)
        assert engine.boards.all() == []


def test_boards_over_http_are_cancelled_tried_again_and_their_grid_is_saved(engine: Engine) -> None:
    body = {"request": {"prompt": "a|b", "steps": 2, "checkpoint": "a"}, "matrix": {}}
    with client_of(build_app(engine, Security())) as client:
        plot_id = client.post("/api/v1/plots", json=body).json()["id"]
        client.post(f"/api/v1/plots/{plot_id}/cancel")
        ended(engine, engine.boards.find(plot_id))
        client.post(f"/api/v1/plots/{plot_id}/retry")
        found = ended(engine, engine.boards.find(plot_id))
        assert [cell.state for cell in found.cells] == ["done"] * 2
        grid = client.post(f"/api/v1/plots/{plot_id}/grid").json()["grid"]
        assert client.get("/" + grid).status_code == 200
        assert client.get(f"/api/v1/batches/{plot_id}").status_code == 404


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
