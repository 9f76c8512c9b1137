"""What a recipe without a name is called: its rule and its models."""

from __future__ import annotations

from pathlib import PurePosixPath

from backend.recipe import CheckpointInput, Merge, Node, Recipe, WithAdapters, WithVae

_LONGEST = 120


def summary(recipe: Recipe) -> str:
    """ "lerp(anime + photo; alpha 0.5)". Weights that differ from block to block are marked with "..."."""
    text = _of(recipe.root)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _of(node: Node) -> str:
    match node:
        case CheckpointInput():
            return PurePosixPath(node.file.name).name
        case Merge():
            models = " + ".join(_of(model) for model in node.models)
            numbers = " ".join(
                f"{name} {weights.base:g}{'...' if weights.overrides else ''}" for name, weights in node.parameters
            )
            return f"{node.rule}({models}{'; ' if numbers else ''}{numbers})"
        case WithAdapters():
            adapters = " + ".join(PurePosixPath(use.file.name).name for use in node.adapters)
            return f"{_of(node.model)} with {adapters}" if adapters else _of(node.model)
        case WithVae():
            return f"{_of(node.model)} with {PurePosixPath(node.vae.name).name}"
