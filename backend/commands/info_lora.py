"""What `info` tells of a LoRA: by itself, and beside a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from backend.adapters.aliases import FAMILIES, specs_of
from backend.adapters.lora_facts import LoraFacts, lora_facts
from backend.adapters.lora_file import open_adapter
from backend.adapters.report import AdapterReport
from backend.commands.terminal import as_line
from backend.engine.catalog import Catalog
from backend.errors import FileError
from backend.merging.merged import make_model
from backend.recipe import CheckpointInput, FileRef, Recipe
from backend.weights.weight_file import open_weights

_NAMED = 5  # modules of each reason; JSON has all
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, kw_only=True)
class LoraTold:
    """checkpoint: name of the file that it was looked at beside, "" for none: then nothing is said to fit or not."""

    facts: LoraFacts
    report: AdapterReport
    checkpoint: str


def read_lora(path: Path, checkpoint: Path | None) -> LoraTold | None:
    """None for a file that is no LoRA. Reads all of it. Raises FileError, UnsupportedMerge, UnknownName."""
    try:
        adapter = open_adapter(path)
    except FileError:
        return None
    facts = lora_facts(path)
    if checkpoint is None:
        report = adapter.report({}, facts.family if facts.family in FAMILIES else FAMILIES[0])
        return LoraTold(facts=facts, report=report, checkpoint="")
    recipe = Recipe(root=CheckpointInput(file=FileRef(name=checkpoint.stem)))
    model = make_model(recipe, lambda _: open_weights(checkpoint), Catalog.builtin().for_merging)
    report = adapter.report(specs_of(model.source), model.family.name)
    return LoraTold(facts=facts, report=report, checkpoint=checkpoint.name)


def lora_rows(told: LoraTold) -> dict[str, str]:
    """Lines of text by their titles."""
    facts, report = told.facts, told.report
    rows = {
        "can be used": f"no: {facts.problem}" if facts.problem else "yes, as a LoRA",
        "made for": as_line(facts.family or "not told"),
        "formats": ", ".join(f"{label} ({count})" for label, count in report.formats.items()),
        "ranks": _span(report.ranks),
        "alphas": _alphas(report),
        "values": f"NOT ALL NUMBERS: {_listed(report.not_finite)}" if report.not_finite else "all are numbers",
        "called": facts.alias,
        "titled": facts.title,
        "trigger": facts.trigger_phrase,
        "tags": ", ".join(f"{tag} ({count})" for tag, count in facts.trained_tags),
        "embeddings": ", ".join(report.embeddings),
        "add nothing": _listed([*report.untrained, *report.silent]),
        "not read": _listed(report.others),
        "to use it": report.hint,
        **(_beside(told) if told.checkpoint else {"beside": "no checkpoint; name one with --ckpt FILE"}),
    }
    return {title: as_line(text) for title, text in rows.items() if text}


def lora_mapping(told: LoraTold) -> dict[str, Any]:
    """JSON values."""
    facts, report = told.facts, told.report
    beside = {
        "family": report.family,
        "matched": report.num_matched,
        "components": {name: [report.matched.get(name, 0), count] for name, count in report.totals.items()},
        "unmatched": [{"module": found.module, "reason": found.reason.value} for found in report.unmatched],
        "notices": list(report.notices()),
        "problem": _problem(report),
    }
    return {
        "trained_for": facts.family,
        "formats": dict(report.formats),
        "modules": report.num_modules,
        "ranks": report.ranks,
        "alphas": report.alphas,
        "without_alpha": report.num_without_alpha,
        "not_finite": list(report.not_finite),
        "add_nothing": [*report.untrained, *report.silent],
        "embeddings": list(report.embeddings),
        "others": list(report.others),
        "hint": report.hint,
        "alias": facts.alias,
        "title": facts.title,
        "trigger_phrase": facts.trigger_phrase,
        "trained_tags": [list(tag) for tag in facts.trained_tags],
        "checkpoint": told.checkpoint or None,
        **(beside if told.checkpoint else {}),
    }


def _beside(told: LoraTold) -> Mapping[str, str]:
    report = told.report
    parts = (f"{name} {report.matched.get(name, 0)} of {count}" for name, count in report.totals.items())
    rows = {
        "beside": told.checkpoint,
        "fits": f"{report.num_matched} of {report.num_modules} modules ({', '.join(parts)})",
        "problem": _problem(report),
    }
    for reason in dict.fromkeys(found.reason for found in report.unmatched):
        modules = [found.module for found in report.unmatched if found.reason is reason]
        rows[f"unmatched {len(modules)}"] = f"{reason.value}: {_listed(modules)}"
    return rows


def _problem(report: AdapterReport) -> str:
    try:
        report.require_fit()
    except FileError as error:
        return str(error)
    return ""


def _alphas(report: AdapterReport) -> str:
    without = report.num_without_alpha
    return ", ".join(text for text in (_span(report.alphas), f"{without} modules without" if without else "") if text)


def _span(pair: tuple[_Number, _Number] | None) -> str:
    if pair is None:
        return ""
    low, high = pair
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")
