"""The requests that a plot stands for, one for each cell, in the order in which they cost least."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from backend.engine.plot_request import Axis, AxisKind, PlotRequest, Value
from backend.errors import RequestError
from backend.merging.rule import Rule
from backend.recipe import Merge, Node, Override, Weights, WithAdapters, WithVae
from backend.registry import Registry
from backend.request import GenerationRequest

_ALPHA = "alpha"
_Change = Callable[[Merge], Merge]


def in_order(plot: PlotRequest) -> Iterator[tuple[int, int]]:
    """x and y of every cell, so that those which share a model follow one another."""
    cells = [(x, y) for y in range(plot.rows) for x in range(len(plot.x.values))]
    if plot.y is not None and plot.x.kind.changes_model and not plot.y.kind.changes_model:
        cells.sort()
    return iter(cells)


def cell_request(plot: PlotRequest, x: int, y: int, rules: Registry[Rule]) -> GenerationRequest:
    """What one cell shows. Raises RequestError, UnknownName."""
    request = _changed(plot.request, plot.x, plot.x.values[x], rules)
    return request if plot.y is None else _changed(request, plot.y, plot.y.values[y], rules)


def _changed(request: GenerationRequest, axis: Axis, value: Value, rules: Registry[Rule]) -> GenerationRequest:
    match axis.kind:
        case AxisKind.CHECKPOINT:
            return dataclasses.replace(request, checkpoint=str(value), recipe=None)
        case AxisKind.SEED | AxisKind.STEPS | AxisKind.GUIDANCE:
            return GenerationRequest.from_mapping({**request.to_mapping(), axis.kind.value: value})
        case AxisKind.PARAMETER | AxisKind.BLOCK | AxisKind.RULE:
            recipe = request.recipe
            if recipe is None:
                raise RequestError("recipe", f"is missing: an axis of the kind {axis.kind.value} needs a merged model")
            root = _in_merge(recipe.root, lambda merge: _changed_merge(merge, axis, value, rules))
            return dataclasses.replace(request, recipe=dataclasses.replace(recipe, root=root, name=""), checkpoint=None)


def _in_merge(node: Node, change: _Change) -> Node:
    """The node with its outermost merge changed."""
    match node:
        case Merge():
            return change(node)
        case WithAdapters() | WithVae():
            return dataclasses.replace(node, model=_in_merge(node.model, change))
        case _:
            raise RequestError("recipe", "merges no models, so that it has no numbers to change")


def _changed_merge(merge: Merge, axis: Axis, value: Value, rules: Registry[Rule]) -> Merge:
    parameters = dict(merge.parameters)
    if axis.kind is AxisKind.RULE:
        rule = rules[str(value)]
        known = {parameter.name for parameter in rule.parameters(len(merge.models))}
        kept = tuple((name, weights) for name, weights in merge.parameters if name in known)
        return dataclasses.replace(merge, rule=rule.name, parameters=kept)
    number = float(value)
    if axis.kind is AxisKind.PARAMETER:
        name = axis.target or _ALPHA
        before = parameters.get(name, Weights(base=number))
        parameters[name] = dataclasses.replace(before, base=number)
    else:
        name, _, blocks = axis.target.rpartition(":")
        name = name or _ALPHA
        before = parameters.get(name) or Weights(base=_default(merge, name, rules))
        override = Override(value=number, blocks=tuple(block.strip() for block in blocks.split("+")))
        parameters[name] = dataclasses.replace(before, overrides=(*before.overrides, override))
    return dataclasses.replace(merge, parameters=tuple(sorted(parameters.items(), key=lambda one: one[0])))


def _default(merge: Merge, name: str, rules: Registry[Rule]) -> float:
    """Raises RequestError for a number that the rule does not have."""
    known = {parameter.name: parameter.default for parameter in rules[merge.rule].parameters(len(merge.models))}
    if name not in known:
        raise RequestError("target", f'{merge.rule} has no number "{name}". It has: {", ".join(known) or "none"}')
    return known[name]
