"""Axes over the merge that makes a model: its numbers, for all blocks or some, and its rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from backend.engine.axis_kinds import AxisKind, Change, Chosen, Cost
from backend.engine.axis_values import ValueKind
from backend.errors import RequestError
from backend.merging.rule import Rule
from backend.recipe import Merge, Node, Override, Weights, WithAdapters, WithVae
from backend.registry import Registry
from backend.request import GenerationRequest

_ALPHA = "alpha"


def _of_merge(change: Callable[[Merge, Chosen], Merge]) -> Change:
    def changed(request: GenerationRequest, chosen: Chosen) -> GenerationRequest:
        recipe = request.recipe
        if recipe is None:
            raise RequestError("recipe", "is missing: this needs a merged model")
        root = _in_merge(recipe.root, lambda merge: change(merge, chosen))
        return dataclasses.replace(request, recipe=dataclasses.replace(recipe, root=root, name=""), checkpoint=None)

    return changed


def _in_merge(node: Node, change: Callable[[Merge], Merge]) -> Node:
    """The node with its outermost merge changed."""
    match node:
        case Merge():
            return change(node)
        case WithAdapters() | WithVae():
            return dataclasses.replace(node, model=_in_merge(node.model, change))
        case _:
            raise RequestError("recipe", "merges no models, so that it has no numbers to change")


def _with_rule(merge: Merge, chosen: Chosen) -> Merge:
    rule = chosen.rules[str(chosen.value)]
    known = {parameter.name for parameter in rule.parameters(len(merge.models))}
    kept = tuple((name, weights) for name, weights in merge.parameters if name in known)
    return dataclasses.replace(merge, rule=rule.name, parameters=kept)


def _with_number(merge: Merge, chosen: Chosen) -> Merge:
    name, number = chosen.target or _ALPHA, float(chosen.value)
    before = dict(merge.parameters).get(name, Weights(base=number))
    return _with_weights(merge, name, dataclasses.replace(before, base=number))


def _with_block(merge: Merge, chosen: Chosen) -> Merge:
    name, _, blocks = chosen.target.rpartition(":")
    name = name or _ALPHA
    before = dict(merge.parameters).get(name) or Weights(base=_default(merge, name, chosen.rules))
    override = Override(value=float(chosen.value), blocks=tuple(block.strip() for block in blocks.split("+")))
    return _with_weights(merge, name, dataclasses.replace(before, overrides=(*before.overrides, override)))


def _with_weights(merge: Merge, name: str, weights: Weights) -> Merge:
    parameters = {**dict(merge.parameters), name: weights}
    return dataclasses.replace(merge, parameters=tuple(sorted(parameters.items(), key=lambda one: one[0])))


def _default(merge: Merge, name: str, rules: Registry[Rule]) -> float:
    """Raises RequestError for a number that the rule does not have."""
    known = {parameter.name: parameter.default for parameter in rules[merge.rule].parameters(len(merge.models))}
    if name not in known:
        raise RequestError("target", f'{merge.rule} has no number "{name}". It has: {", ".join(known) or "none"}')
    return known[name]


BUILTIN = (
    AxisKind(
        name="parameter",
        label="Merge number",
        values=ValueKind.NUMBER,
        cost=Cost.MODEL,
        change=_of_merge(_with_number),
        group="Merge",
        target="Number of the rule, such as alpha",
    ),
    AxisKind(
        name="block",
        label="Merge block",
        values=ValueKind.NUMBER,
        cost=Cost.MODEL,
        change=_of_merge(_with_block),
        group="Merge",
        target='Blocks, such as "IN04+IN05"',
        needs_target=True,
    ),
    AxisKind(
        name="rule",
        label="Merge rule",
        values=ValueKind.NAME,
        cost=Cost.MODEL,
        change=_of_merge(_with_rule),
        group="Merge",
    ),
)
