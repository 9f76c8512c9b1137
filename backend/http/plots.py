"""Pictures compared along axes: /api/v1/plots; and made from many pictures: /api/v1/batches."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.exceptions import HTTPException

from backend.engine.asked_plot import plot_from
from backend.engine.axis_catalog import axis_kinds
from backend.engine.batch_request import READ_FIELDS, BatchRequest
from backend.engine.board import Board
from backend.engine.engine import Engine
from backend.engine.plot_cells import single_changes
from backend.engine.plot_estimate import estimated_seconds
from backend.engine.plot_request import PlotRequest
from backend.errors import RequestError, UnknownName
from backend.http.axis_json import axis_kind_json
from backend.http.board_json import BoardJson
from backend.http.json_body import JsonObject

MAX_LISTED = 1000


def plots_router(engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/api/v1")
    as_json = BoardJson(engine.settings.output_dir)

    def find(board_id: str, kind: type[PlotRequest | BatchRequest], called: str) -> Board:
        try:
            board = engine.boards.find(board_id)
        except UnknownName as error:
            raise HTTPException(404, f"There is no {called} {board_id[:100]}.") from error
        if not isinstance(board.request, kind):
            raise HTTPException(404, f"{board_id[:100]} is no {called}.")
        return board

    def plot(board_id: str) -> Board:
        return find(board_id, PlotRequest, "plot")

    def batch(board_id: str) -> Board:
        return find(board_id, BatchRequest, "batch")

    def boards_of(kind: type[PlotRequest | BatchRequest], limit: int) -> list[Board]:
        newest = [board.id for board in engine.boards.all() if isinstance(board.request, kind)]
        return [engine.boards.find(board_id) for board_id in newest[: max(0, limit)]]

    @router.get("/plots/axes")
    def axes() -> list[dict[str, Any]]:
        """What an axis can change."""
        return [axis_kind_json(engine, kind) for kind in axis_kinds()]

    @router.post("/plots/check")
    def check(body: JsonObject) -> dict[str, Any]:
        """What a plot would come to, or what is wrong with it; nothing is queued."""
        try:
            request = plot_from(body)
            for _ in single_changes(request, engine.catalog.rules):
                pass
            seconds = estimated_seconds(request, engine.jobs(), engine.catalog.rules)
        except RequestError as error:
            return {"pictures": 0, "seconds": None, "axes": [], "problem": str(error), "field": error.field}
        axes = as_json.axes(request)
        return {"pictures": request.num_cells, "seconds": seconds, "axes": axes, "problem": "", "field": ""}

    @router.post("/plots", status_code=202)
    def submit(body: JsonObject) -> dict[str, Any]:
        return as_json.plot(engine.submit_plot(plot_from(body)))

    @router.get("/plots")
    def list_plots(limit: int = MAX_LISTED) -> list[dict[str, Any]]:
        """The newest first, at most `limit`."""
        return [as_json.plot(board) for board in boards_of(PlotRequest, limit)]

    @router.get("/plots/{board_id}")
    def show(board_id: str) -> dict[str, Any]:
        return as_json.plot(plot(board_id))

    @router.post("/plots/{board_id}/retry")
    def retry(board_id: str) -> dict[str, Any]:
        """Try again what failed or was cancelled."""
        return as_json.plot(engine.boards.retry(plot(board_id).id))

    @router.post("/plots/{board_id}/cancel")
    def cancel(board_id: str) -> dict[str, Any]:
        return as_json.plot(engine.boards.cancel(plot(board_id).id))

    @router.post("/plots/{board_id}/grid")
    def save_grid(board_id: str) -> dict[str, Any]:
        """A picture of what is finished now."""
        return {"grid": as_json.address(str(engine.boards.save_grid(plot(board_id).id)))}

    @router.delete("/plots/{board_id}")
    def remove(board_id: str) -> dict[str, Any]:
        """Cancel what has not ended, and forget the board; pictures stay."""
        engine.boards.remove(plot(board_id).id)
        return {}

    @router.get("/batches/fields")
    def fields() -> list[str]:
        """What a batch can read in its pictures."""
        return list(READ_FIELDS)

    @router.post("/batches", status_code=202)
    def submit_batch(body: JsonObject) -> dict[str, Any]:
        return as_json.batch(engine.submit_batch(BatchRequest.from_mapping(body)))

    @router.get("/batches")
    def list_batches(limit: int = MAX_LISTED) -> list[dict[str, Any]]:
        """The newest first, at most `limit`, without their items."""
        return [as_json.batch_summary(board) for board in boards_of(BatchRequest, limit)]

    @router.get("/batches/{board_id}")
    def show_batch(board_id: str) -> dict[str, Any]:
        return as_json.batch(batch(board_id))

    @router.post("/batches/{board_id}/retry")
    def retry_batch(board_id: str) -> dict[str, Any]:
        return as_json.batch(engine.boards.retry(batch(board_id).id))

    @router.post("/batches/{board_id}/cancel")
    def cancel_batch(board_id: str) -> dict[str, Any]:
        return as_json.batch(engine.boards.cancel(batch(board_id).id))

    @router.delete("/batches/{board_id}")
    def remove_batch(board_id: str) -> dict[str, Any]:
        engine.boards.remove(batch(board_id).id)
        return {}

    return router
