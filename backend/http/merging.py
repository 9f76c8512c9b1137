"""What models can be merged by, what would come of it, and saving it: /api/v1."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastapi import APIRouter

from backend.engine.engine import Engine
from backend.engine.job_request import JobRequest
from backend.engine.lora_request import LoraExtraction, LoraMerge, LoraResize
from backend.engine.merge_request import MergeRequest
from backend.errors import RequestError
from backend.http.job_json import job_json
from backend.http.json_body import JsonObject
from backend.merging.base_reading import BaseReading
from backend.merging.block_layout import BlockLayout
from backend.merging.comparison import compare_blocks
from backend.merging.layouts import layout_of, shares
from backend.merging.presets import preset_weights, presets_for
from backend.merging.rule import Rule
from backend.merging.weight_lists import read_weights, write_weights
from backend.recipe import CheckpointInput, FileRef, Merge, Recipe, StoredDtype, recipe_from, weights_mapping
from backend.weights.source import WeightSource

_DTYPES = {
    StoredDtype.AS_FIRST: "as the first model",
    StoredDtype.FLOAT32: "32 bits",
    StoredDtype.FLOAT16: "16 bits (float16)",
    StoredDtype.BFLOAT16: "16 bits (bfloat16)",
    StoredDtype.FLOAT8_E4M3: "8 bits (E4M3)",
    StoredDtype.FLOAT8_E5M2: "8 bits (E5M2)",
}


def merging_router(engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/api/v1")

    def queued(request: JobRequest) -> dict[str, Any]:
        return job_json(engine.job(engine.submit(request)), engine.settings.output_dir)

    def layout(checkpoint: str) -> tuple[BlockLayout, WeightSource, str]:
        model = engine.made_checkpoint(checkpoint)
        return layout_of(model.family.name, model.source.keys()), model.source, model.family.label

    @router.get("/merge/rules")
    def rules() -> dict[str, Any]:
        return {
            "rules": [_rule_json(rule) for rule in engine.catalog.rules],
            "normalisations": [
                {"name": entry.name, "label": entry.label, "explanation": entry.explanation}
                for entry in engine.catalog.normalisations
            ],
            "dtypes": [{"name": dtype.value, "label": label} for dtype, label in _DTYPES.items()],
            "readings": [{"name": reading.value, "label": reading.label} for reading in BaseReading],
        }

    @router.get("/merge/layout")
    def show_layout(checkpoint: str) -> dict[str, Any]:
        """The blocks of a checkpoint, or of what a stored recipe makes, and what share of it each is."""
        found, source, label = layout(checkpoint)
        share = shares(found, source)
        return {
            "family": found.name,
            "label": label,
            "blocks": [{**dataclasses.asdict(block), "share": share[block.name]} for block in found.blocks],
            "kinds": [{"name": name, "label": text} for name, text in found.kinds.items()],
            "streams": [{"name": name, "label": text} for name, text in found.streams.items()],
            "presets": [
                {"name": preset.name, "label": preset.label, "weights": weights_mapping(preset_weights(preset, found))}
                for preset in presets_for(found)
            ],
        }

    @router.post("/merge/weights")
    def weights(body: JsonObject) -> dict[str, Any]:
        """Read weights by block as somebody wrote or copied them."""
        _check_known(body, {"checkpoint", "text", "reading", "base"})
        found, _, _ = layout(_text(body, "checkpoint"))
        readings = {reading.value: reading for reading in BaseReading}
        reading = body.get("reading", BaseReading.OWN.value)
        if not isinstance(reading, str) or reading not in readings:
            raise RequestError("reading", f"must be one of {', '.join(readings)}, not {reading!r:.60}")
        base = body.get("base", 0.0)
        if not isinstance(base, int | float) or isinstance(base, bool):
            raise RequestError("base", f"must be a number, not {base!r:.60}")
        read = read_weights(_text(body, "text"), found, readings[reading], base=base)
        return {"weights": weights_mapping(read), "text": write_weights(read, found)}

    @router.post("/merge/report")
    def report(body: JsonObject) -> dict[str, Any]:
        """What a recipe would make, by the headers of its files: nothing is computed."""
        _check_known(body, {"recipe"})
        made = engine.make(recipe_from(body.get("recipe")))
        told = made.model.report
        return {
            "family": made.model.family.name,
            "label": made.model.family.label,
            "matched": len(told.matched),
            "copied": list(told.copied),
            "padded": list(told.padded),
            "dropped": list(told.dropped),
            "notices": list(made.notices),
            "hash": made.recipe.hash,
            "recipe": made.recipe.to_mapping(),
            "parameters": told.parameters,
            "num_bytes": told.num_bytes,
        }

    @router.post("/merge/compare")
    def compare(body: JsonObject) -> dict[str, Any]:
        """How far two checkpoints lie apart, by block: reads both, about a second for every two gigabytes."""
        _check_known(body, {"a", "b"})
        models = tuple(CheckpointInput(file=FileRef(name=_text(body, name))) for name in ("a", "b"))
        made = engine.make(Recipe(root=Merge(rule="lerp", models=models)))
        found = compare_blocks(made.model, layout_of(made.model.family.name, made.model.source.keys()))
        return {"blocks": [{"name": name, **dataclasses.asdict(each)} for name, each in found.items()]}

    @router.post("/merge/save", status_code=202)
    def save(body: JsonObject) -> dict[str, Any]:
        """Queue a job that saves what a recipe makes as a checkpoint."""
        return queued(MergeRequest.from_mapping(body))

    @router.post("/loras/merge", status_code=202)
    def merge_loras(body: JsonObject) -> dict[str, Any]:
        return queued(LoraMerge.from_mapping(body))

    @router.post("/loras/extract", status_code=202)
    def extract_lora(body: JsonObject) -> dict[str, Any]:
        return queued(LoraExtraction.from_mapping(body))

    @router.post("/loras/resize", status_code=202)
    def resize_lora(body: JsonObject) -> dict[str, Any]:
        return queued(LoraResize.from_mapping(body))

    return router


def _rule_json(rule: Rule) -> dict[str, Any]:
    count = len(rule.roles)
    return {
        "name": rule.name,
        "label": rule.label,
        "formula": rule.formula,
        "explanation": rule.explanation,
        "roles": list(rule.roles),
        "extra_models": rule.extra_models,
        "is_random": rule.is_random,
        "parameters": [dataclasses.asdict(parameter) for parameter in rule.parameters(count)],
        # By how many models there are, where that matters: "3" and so on.
        "parameters_by_count": {
            str(number): [dataclasses.asdict(parameter) for parameter in rule.parameters(number)]
            for number in range(count, count + rule.extra_models + 1)
        },
    }


def _check_known(body: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(body.keys() - known):
        raise RequestError(unknown[0][:100], f"is not known here. Known: {', '.join(sorted(known))}")


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise RequestError(name, f"must be text, not {value!r:.60}")
    return value
