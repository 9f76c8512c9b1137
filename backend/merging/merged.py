"""Models made by recipes: composed from headers alone, computed weight by weight when they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from backend.adapters.lora_file import Adapter
from backend.adapters.patched import Deltas, PlacedAdapter
from backend.errors import RequestError, UnsupportedCheckpoint, UnsupportedMerge
from backend.families.family import Family
from backend.families.file_facts import averaged
from backend.families.recognition import recognised
from backend.merging.alignment import Alignment, Ingredient, Partners, align
from backend.merging.block_layout import BlockLayout
from backend.merging.canonical import AVERAGES, autoencoder, canonical, component
from backend.merging.catalog import MergeCatalog
from backend.merging.combined import Adapted, Combined, SharedSurvey
from backend.merging.layouts import layout_of, weight_at
from backend.merging.made_model import MadeModel
from backend.merging.made_source import MadeSource, Slot, slot_of
from backend.merging.metadata import inherited
from backend.merging.operands import StoredWeight, Weight, WithColumns
from backend.merging.placed import placed
from backend.merging.predicted import predicted_by
from backend.merging.report import MergeReport
from backend.merging.rule import Rule
from backend.merging.selectors import check_weights
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
from backend.weights.source import WeightSource

Opened = Callable[[FileRef], WeightSource]

_DTYPES = {
    StoredDtype.FLOAT32: torch.float32,
    StoredDtype.FLOAT16: torch.float16,
    StoredDtype.BFLOAT16: torch.bfloat16,
    StoredDtype.FLOAT8_E4M3: torch.float8_e4m3fn,
    StoredDtype.FLOAT8_E5M2: torch.float8_e5m2,
}


def make_model(recipe: Recipe, opened: Opened, catalog: MergeCatalog) -> MadeModel:
    """Compose a model. Headers are read, and a few numbers that say what a model predicts.

    opened: the weights of a file of the recipe. Raises UnsupportedMerge for models that do not belong together,
    RequestError and UnknownName for what the recipe says wrongly, FileError for a file that cannot be used.
    """
    maker = _Maker(opened, catalog)
    made = maker.ingredient(recipe.root)
    slots = {key: _stored_as(recipe.dtype, key, slot) for key, slot in made.slots.items()}
    report = MergeReport(
        family=made.family.label,
        matched=tuple(maker.last.matched),
        copied=tuple(key for key in made.slots if key not in maker.last.matched),
        padded=tuple(key for key, partners in maker.last.matched.items() if partners.wide is not None),
        dropped=tuple(maker.last.dropped),
        notices=tuple(dict.fromkeys(maker.notices)),
        parameters=sum(slot.spec.num_elements for slot in slots.values()),
        num_bytes=sum(slot.spec.num_bytes for slot in slots.values()),
    )
    return MadeModel(
        source=MadeSource(slots, metadata=made.metadata, origin=Path(recipe.name or made.title)),
        family=made.family,
        report=report,
        inputs=maker.inputs,
        files=tuple(maker.files),
        surveys=tuple(maker.surveys),
        prediction=made.prediction,
    )


def _stored_as(dtype: StoredDtype, key: str, slot: Slot) -> Slot:
    """Markers keep their types. Eight bits are for matrices of the networks: everything else would suffer visibly."""
    wanted = _DTYPES.get(dtype)
    part = component(key)
    if wanted is None or part == "" or not slot.dtype.is_floating_point:
        return slot
    if wanted.itemsize == 1 and (len(slot.weight.shape) < 2 or part == "VAE"):
        return slot
    return Slot(weight=slot.weight, dtype=wanted)


class _Maker:
    """Makes the models of one recipe, and gathers what there is to say about them."""

    def __init__(self, opened: Opened, catalog: MergeCatalog) -> None:
        self._opened = opened
        self._catalog = catalog
        self.last = Alignment()  # of the outermost merge
        self.notices: list[str] = []
        self.inputs: dict[str, Mapping[str, str]] = {}
        self.files: list[Path] = []
        self.surveys: list[SharedSurvey] = []

    def ingredient(self, node: Node) -> Ingredient:
        match node:
            case CheckpointInput():
                return self._checkpoint(node)
            case Merge():
                return self._merge(node)
            case WithVae():
                return self._with_vae(node)
            case WithAdapters():
                return self._with_adapters(node)

    def _open(self, file: FileRef) -> WeightSource:
        source = self._opened(file)
        self.files.append(source.origin)
        return source

    def _checkpoint(self, node: CheckpointInput) -> Ingredient:
        source = self._open(node.file)
        self.inputs[node.file.name] = source.metadata
        family = self._family(source, node.file.name)
        if node.use_ema:
            source = averaged(source)
        elif any(key.startswith(AVERAGES) for key in source.keys()):
            self.notices.append(
                f'"{node.file.name}" also holds averaged (EMA) weights; its plain ones are used, and the averages are '
                "left out."
            )
        found = canonical(source, family)
        self.notices += found.notices
        return Ingredient(
            title=node.file.name,
            family=family,
            slots={key: _slot(weight) for key, weight in found.weights.items()},
            metadata=inherited(source.metadata),
            origin=source.origin,
            prediction=predicted_by(source, family),
        )

    def _family(self, source: WeightSource, title: str) -> Family:
        family = recognised(source, tuple(self._catalog.families))
        if family.name == "lora":
            raise UnsupportedMerge(
                f'"{title}" is a LoRA, not a model. Choose it as an adapter of a model, and the model in its place.'
            )
        if family.load is None:
            raise UnsupportedMerge(
                f'"{title}" is a {family.label} file, not a model that can be merged: {family.advice}'
            )
        return family

    def _merge(self, node: Merge) -> Ingredient:
        rule = self._catalog.normalisations[node.normalisation].applied_to(self._catalog.rules[node.rule])
        _check(node, rule)
        models = [self.ingredient(model) for model in node.models]
        alignment = align(models)
        self.last = alignment
        self.notices += alignment.notices
        layout = layout_of(models[0].family.name, tuple(models[0].slots))
        for name, weights in node.parameters:
            check_weights(weights, layout, f"parameters.{name}")
        parameters = _parameters(node, rule)
        survey = SharedSurvey(rule) if rule.survey is not None else None
        slots = dict(alignment.copied)
        for key, partners in alignment.matched.items():
            values = {name: weight_at(weights, layout.place_of(key)) for name, weights in parameters.items()}
            combined = Combined(
                key=key,
                operands=partners.weights,
                values=values,
                seed=node.seed,
                method=rule.merge,
                method_name=f"{rule.name} {node.normalisation}",
                is_random=rule.is_random,
                narrow=rule.narrow,
                survey=survey,
            )
            weight = _result(models, partners, combined, rule.same_as(values))
            if survey is not None:
                survey.weights.append(combined)
            slots[key] = Slot(weight=weight, dtype=partners.slot.dtype)
        if survey is not None:
            self.surveys.append(survey)
        return Ingredient(
            title=f"{rule.label} of {' and '.join(model.title for model in models)}",
            family=models[0].family,
            slots=slots,
            metadata=models[0].metadata,
            origin=models[0].origin,
            prediction=models[0].prediction,
        )

    def _with_vae(self, node: WithVae) -> Ingredient:
        made = self.ingredient(node.model)
        vae = autoencoder(self._open(node.vae), made.family.name)
        if not vae:
            raise UnsupportedCheckpoint(node.vae.name, "it holds no autoencoder (VAE). Choose another VAE.")
        before = {key: slot for key, slot in made.slots.items() if component(key) == "VAE"}
        for key, weight in vae.items():
            if key in before and before[key].weight.shape != weight.shape:
                raise UnsupportedMerge(
                    f'"{node.vae.name}" is no autoencoder (VAE) for {made.family.label}: "{key}" has the shape '
                    f"{list(weight.shape)} instead of {list(before[key].weight.shape)}."
                )
        if not before:
            self.notices.append(f'"{made.title}" has no VAE; that of "{node.vae.name}" is added.')
        kept = {key: slot for key, slot in made.slots.items() if key not in before}
        self._forget(before)
        return replace(made, slots={**kept, **{key: _slot(weight) for key, weight in vae.items()}})

    def _with_adapters(self, node: WithAdapters) -> Ingredient:
        made = self.ingredient(node.model)
        exact = MadeSource(
            {key: _exact(slot) for key, slot in made.slots.items()}, metadata=made.metadata, origin=made.origin
        )
        layout = layout_of(made.family.name, exact.keys())
        deltas = Deltas(exact, [self._placed(use, exact, made, layout) for use in node.adapters], made.family.name)
        slots = {
            key: Slot(weight=Adapted(key, slot.weight, deltas), dtype=_wide(slot.dtype)) if key in deltas.keys else slot
            for key, slot in made.slots.items()
        }
        return replace(made, slots=slots, title=f"{made.title} with adapters")

    def _placed(self, use: AdapterUse, model: MadeSource, made: Ingredient, layout: BlockLayout) -> PlacedAdapter:
        adapter = Adapter(self._open(use.file))
        specs = {key: model.spec(key) for key in model.keys()}
        report = adapter.report(specs, made.family.name, reads_numbers=False)
        report.require_fit()
        if report.unmatched:
            self.notices.append(
                f'{len(report.unmatched)} of {report.num_modules} modules of "{use.file.name}" fit no weight of '
                f'"{made.title}" and are left out.'
            )
        return placed(use, adapter, layout)

    def _forget(self, keys: Mapping[str, Slot]) -> None:
        """Of the outermost merge: what is replaced afterwards is no part of its result."""
        for key in keys:
            self.last.matched.pop(key, None)


def _check(node: Merge, rule: Rule) -> None:
    """Raises RequestError for a number of models, or parameters, that the rule does not have."""
    least, most = len(rule.roles), len(rule.roles) + rule.extra_models
    if not least <= len(node.models) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise RequestError("models", f'"{rule.label}" takes {wanted} models, and {len(node.models)} are given')
    known = {parameter.name: parameter for parameter in rule.parameters(len(node.models))}
    for name, weights in node.parameters:
        if name not in known:
            raise RequestError(
                f"parameters.{name}", f'"{rule.label}" has no such number. It has: {", ".join(known) or "none"}'
            )
        if weights.overrides and not known[name].by_block:
            raise RequestError(f"parameters.{name}", f'this number of "{rule.label}" is one for the whole model')


def _parameters(node: Merge, rule: Rule) -> dict[str, Weights]:
    defaults = {parameter.name: Weights(base=parameter.default) for parameter in rule.parameters(len(node.models))}
    return {**defaults, **dict(node.parameters)}


def _result(models: Sequence[Ingredient], partners: Partners, combined: Combined, same_as: int | None) -> Weight:
    if same_as is not None and partners.wide is None:
        return partners.weights[same_as]
    if partners.wide is None:
        return combined
    if same_as is None:
        return WithColumns(combined, partners.wide)
    whole = models[same_as].slots[combined.key].weight
    return whole if whole.shape == partners.wide.shape else WithColumns(whole, partners.wide)


def _slot(weight: Weight) -> Slot:
    if isinstance(weight, StoredWeight):
        return slot_of(weight)
    first = next(iter(weight.sources()))
    return Slot(weight=weight, dtype=slot_of(StoredWeight(*first)).dtype)


def _exact(slot: Slot) -> Slot:
    is_number = slot.dtype.is_floating_point and not isinstance(slot.weight, StoredWeight)
    return Slot(weight=slot.weight, dtype=torch.float32) if is_number else slot


def _wide(dtype: torch.dtype) -> torch.dtype:
    """In eight bits, most of what an adapter adds would be lost."""
    return torch.float16 if dtype.itemsize == 1 else dtype
