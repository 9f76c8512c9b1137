"""Pictures compared along one or two axes: /api/v1/plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from starlette.exceptions import HTTPException

from backend.engine.engine import Engine
from backend.engine.plot_request import Axis, PlotRequest
from backend.engine.plots import Cell, Plot
from backend.errors import UnknownName
from backend.http.json_body import JsonObject


def plots_router(engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/api/v1")

    def as_json(plot: Plot) -> dict[str, Any]:
        request = plot.request
        return {
            "id": plot.id,
            "time": plot.time,
            "request": request.request.to_mapping(),
            "x": _axis_json(request.x),
            "y": None if request.y is None else _axis_json(request.y),
            "cells": [cell_json(cell, request.request.prompt) for cell in plot.cells],
            "grid": address(plot.grid),
        }

    def cell_json(cell: Cell, prompt: str) -> dict[str, Any]:
        url, thumbnail = address(cell.image), address(cell.image, "thumb/")
        image = {"url": url, "thumbnail": thumbnail, "width": cell.width, "height": cell.height, "prompt": prompt}
        return {
            "x": cell.x,
            "y": cell.y,
            "job": cell.job,
            "state": cell.state,
            "image": image if url else None,
            "error": cell.error,
        }

    def address(file: str, kind: str = "") -> str | None:
        """Where a picture is served; None when there is none, or it is not where pictures are served from."""
        folder = engine.settings.output_dir
        path = Path(file)
        if not file or not path.is_relative_to(folder) or not path.exists():
            return None
        return f"outputs/{kind}{quote(path.relative_to(folder).as_posix())}"

    def find(plot_id: str) -> Plot:
        try:
            return engine.plots.find(plot_id)
        except UnknownName as error:
            raise HTTPException(404, f"There is no plot {plot_id[:100]}.") from error

    @router.post("/plots", status_code=202)
    def submit(body: JsonObject) -> dict[str, Any]:
        return as_json(engine.submit_plot(PlotRequest.from_mapping(body)))

    @router.get("/plots")
    def list_plots() -> list[dict[str, Any]]:
        """The newest first."""
        return [as_json(find(plot.id)) for plot in engine.plots.all()]

    @router.get("/plots/{plot_id}")
    def show(plot_id: str) -> dict[str, Any]:
        return as_json(find(plot_id))

    @router.delete("/plots/{plot_id}")
    def remove(plot_id: str) -> dict[str, Any]:
        """Cancel what has not ended, and forget the board; pictures stay."""
        engine.plots.remove(find(plot_id).id)
        return {}

    return router


def _axis_json(axis: Axis) -> dict[str, Any]:
    labels = [axis.label(index) for index in range(len(axis.values))]
    return {**axis.to_mapping(), "label": axis.title, "labels": labels}
