"""The recipe that a command line asks for."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

from backend.engine.library import Library
from backend.errors import RequestError
from backend.merging.block_layout import BlockLayout
from backend.merging.catalog import MergeCatalog
from backend.merging.layouts import layout_of
from backend.merging.rule import Rule
from backend.merging.weight_lists import BaseReading, read_weights
from backend.recipe import (
    AdapterUse,
    CheckpointInput,
    FileRef,
    Merge,
    Node,
    Recipe,
    StoredDtype,
    Weights,
    WithAdapters,
    WithVae,
)
from backend.weights.weight_file import open_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedLora:
    """`FILE[:STRENGTH[:TEXT STRENGTH]]`."""

    file: str
    strength: float = 1.0
    text_encoder_strength: float | None = None


def read_lora(text: str) -> AskedLora:
    """Raises RequestError."""
    file, *numbers = _split_lora(text)
    try:
        strengths = [float(number) for number in numbers]
    except ValueError:
        raise RequestError("lora", f'"{text[:80]}" has a strength that is no number; write FILE:0.8') from None
    return AskedLora(
        file=file,
        strength=strengths[0] if strengths else 1.0,
        text_encoder_strength=strengths[1] if len(strengths) > 1 else None,
    )


def _split_lora(text: str) -> list[str]:
    """Of a file that is there, the colon in its name (C:\\...) divides nothing."""
    for parts in (text.rsplit(":", 2), text.rsplit(":", 1), [text]):
        if Path(parts[0]).expanduser().is_file():
            return parts
    return text.split(":", 2)


def asked_recipe(
    values: argparse.Namespace,
    stored: Recipe | None,
    library: Library,
    catalog: MergeCatalog,
    named: Callable[[str], str],
) -> Recipe:
    """stored: the one in the file of --recipe. named: the library's name of a file, which is given by path or name.

    Raises RequestError, UnknownName and FileError.
    """
    if stored is not None:
        if values.models or values.rule:
            raise RequestError("recipe", "says which models are merged, and how; leave models and --rule away")
        return dataclasses.replace(stored, dtype=StoredDtype(values.dtype)) if values.dtype else stored
    if not values.models:
        raise RequestError("models", "are missing; name at least one, or give --recipe FILE")
    models = tuple(CheckpointInput(file=FileRef(name=named(name)), use_ema=values.ema) for name in values.models)
    root: Node = models[0]
    if len(models) > 1 or values.rule is not None:
        root = _merge(values, models, library, catalog.rules[values.rule or "lerp"])
    elif values.alpha is not None or values.blocks or values.parameters:
        raise RequestError("models", "one model alone is not merged; name a second one, or a --rule that takes one")
    loras = [read_lora(text) for text in values.loras]
    if loras:
        root = WithAdapters(
            model=root,
            adapters=tuple(
                AdapterUse(
                    file=FileRef(name=named(lora.file)),
                    strength=lora.strength,
                    text_encoder_strength=lora.text_encoder_strength,
                )
                for lora in loras
            ),
        )
    if values.vae is not None:
        root = WithVae(model=root, vae=FileRef(name=named(values.vae)))
    return Recipe(root=root, dtype=StoredDtype(values.dtype or StoredDtype.AS_FIRST.value))


def _merge(values: argparse.Namespace, models: tuple[Node, ...], library: Library, rule: Rule) -> Merge:
    layout = _layout(models[0], library)
    known = {parameter.name: parameter for parameter in rule.parameters(len(models))}
    parameters: dict[str, Weights] = {}
    if values.alpha is not None or values.blocks:
        if "alpha" not in known:
            raise RequestError("alpha", f"is no number of {rule.name}. It has: {', '.join(known) or 'none'}")
        base = known["alpha"].default if values.alpha is None else values.alpha
        parameters["alpha"] = (
            read_weights(values.blocks, layout, BaseReading(values.blocks_of), base=base)
            if values.blocks
            else Weights(base=base)
        )
    for text in values.parameters:
        name, sign, value = text.partition("=")
        if not sign or name not in known:
            raise RequestError(
                "parameter", f'"{text[:80]}" must be NAME=NUMBER, with one of: {", ".join(known) or "none"}'
            )
        parameters[name] = read_weights(value, layout, BaseReading(values.blocks_of), base=known[name].default)
    return Merge(
        rule=rule.name,
        models=models,
        parameters=tuple(sorted(parameters.items())),
        normalisation=values.normalisation,
        seed=values.seed,
    )


def _layout(model: Node, library: Library) -> BlockLayout:
    """Raises FileError for a first model that is none."""
    assert isinstance(model, CheckpointInput)
    entry = library.find_checkpoint(model.file.name)
    if entry.problem and not entry.family:
        raise RequestError("models", entry.problem)
    keys = () if entry.recipe is not None else tuple(open_weights(entry.path).keys())
    return layout_of(entry.family, keys)
