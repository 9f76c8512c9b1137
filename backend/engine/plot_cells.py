"""The requests that a plot stands for, one for each cell, in the order in which they cost least."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from backend.engine.axis_kinds import Chosen, Cost
from backend.engine.axis_values import Value
from backend.engine.plot_request import Axis, PlotRequest, axis_name
from backend.errors import AmbiguousName, RequestError, UnknownName
from backend.merging.rule import Rule
from backend.registry import Registry
from backend.request import MAX_SEED, RANDOM_SEED, GenerationRequest

Place = tuple[int, ...]


def places(sizes: Sequence[int]) -> list[Place]:
    """Of all cells; the first axis changes fastest."""
    found: list[Place] = [()]
    for size in sizes:
        found = [(*place, index) for index in range(size) for place in found]
    return found


def in_order(plot: PlotRequest) -> list[Place]:
    """The places of all cells, so that those which share a model, or else a prompt, follow one another."""
    costs = [axis.facts.cost for axis in plot.axes]
    rounds = [Cost.NOTHING] * (len(plot.sizes) - len(costs))
    # The dearest axis changes last; of two that cost the same, the later one does.
    slowest = sorted(range(len(plot.sizes)), key=lambda index: ([*costs, *rounds][index], index), reverse=True)
    return sorted(places(plot.sizes), key=lambda place: [place[index] for index in slowest])


def cell_request(plot: PlotRequest, place: Place, rules: Registry[Rule]) -> GenerationRequest:
    """What one cell shows, in its first round. Raises RequestError, which names the axis."""
    request = plot.request
    if plot.different_seeds and not any(axis.kind == "seed" for axis in plot.axes):
        request = dataclasses.replace(request, seed=(request.seed + _number(plot, place)) % (MAX_SEED + 1))
    for number, axis in enumerate(plot.axes):
        request = _changed(request, axis, axis.choices[place[number]], rules, axis_name(number))
    if request.seed == RANDOM_SEED:  # a line that asks for a seed of its own
        request = dataclasses.replace(request, seed=(plot.request.seed + _number(plot, place)) % (MAX_SEED + 1))
    return request


def single_changes(plot: PlotRequest, rules: Registry[Rule]) -> Iterator[tuple[str, str, GenerationRequest]]:
    """For every value of every axis: which axis, the value, and the request with that value alone changed.

    Raises RequestError, which names the axis.
    """
    for number, axis in enumerate(plot.axes):
        for index, value in enumerate(axis.choices):
            where = axis_name(number)
            yield where, axis.text(index), _changed(plot.request, axis, value, rules, where)


def with_seeds(plot: PlotRequest, draw: Callable[[], int]) -> PlotRequest:
    """The plot with every seed that was left to chance drawn, once and for all."""
    request = plot.request
    if request.seed == RANDOM_SEED:
        request = dataclasses.replace(request, seed=draw())
    axes = tuple(_with_seeds(axis, draw) if axis.kind == "seed" else axis for axis in plot.axes)
    return dataclasses.replace(plot, request=request, axes=axes)


def _with_seeds(axis: Axis, draw: Callable[[], int]) -> Axis:
    return dataclasses.replace(axis, values=tuple(draw() if value == RANDOM_SEED else value for value in axis.values))


def _number(plot: PlotRequest, place: Place) -> int:
    """Which cell it is, rounds not counted."""
    number, scale = 0, 1
    for index, size in zip(place, plot.sizes[: len(plot.axes)], strict=False):
        number += index * scale
        scale *= size
    return number


def _changed(
    request: GenerationRequest, axis: Axis, value: Value, rules: Registry[Rule], where: str
) -> GenerationRequest:
    chosen = Chosen(value=value, values=axis.values, target=axis.target, rules=rules)
    try:
        return axis.facts.change(request, chosen)
    except (RequestError, UnknownName, AmbiguousName) as error:
        raise RequestError(f"{where}.values", f'"{value!s:.100}": {error}') from error
