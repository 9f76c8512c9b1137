"""What a saved picture says about how it was made: A1111's text, and the request that makes it again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from backend import __version__
from backend.adapter_row import AdapterRow, NameHash, row_mapping
from backend.pipeline.infotext import write_infotext, write_name_hashes, write_names
from backend.pipeline.infotext_pictures import parameters_of
from backend.pipeline.plan import GenerationPlan, ModelName, SecondPass
from backend.pipeline.planned_adapters import PlannedAdapters
from backend.pipeline.planned_embeddings import of_other_files
from backend.pipeline.planned_hypernetworks import not_of_hypernetworks
from backend.recipe import Recipe
from backend.request import DEFAULT_REFINER_SWITCH, GenerationRequest
from backend.second_pass import HiresFix

INFOTEXT_KEY = "parameters"  # the PNG text that A1111, Civitai and others read
REQUEST_KEY = "emulsion"


def infotext_of(plan: GenerationPlan, seed: int) -> str:
    """The infotext of the image with `seed`, with A1111's keys in A1111's order."""
    model = plan.model
    return write_infotext(
        plan.prompt,
        plan.negative_prompt,
        {
            "Steps": plan.steps,
            "Sampler": plan.sampler.label,
            "Schedule type": plan.schedule.label if plan.is_schedule_asked else None,
            "CFG scale": f"{plan.guidance_scale:g}",
            "Distilled CFG Scale": None if plan.distilled_guidance is None else f"{plan.distilled_guidance:g}",
            "Image CFG scale": None,
            "CFG Rescale": f"{plan.guidance_rescale:g}" if plan.guidance_rescale else None,
            "Shift": None if plan.shift is None else f"{plan.shift:g}",
            "Seed": seed,
            "Size": f"{plan.width}x{plan.height}",
            "Model hash": model.checkpoint_hash,
            "Model": model.checkpoint,
            "Merge recipe": None if model.recipe is None else recipe_text(model.recipe),
            "VAE hash": model.vae_hash,
            "VAE": model.vae,
            "Prediction": model.prediction.value if model.prediction else None,
            "EMA weights": True if model.use_ema else None,
            "Denoising strength": None,
            "Conditional mask weight": None,
            "Clip skip": plan.clip_skip if plan.clip_skip > 1 else None,
            "Refiner": plan.refiner.model.checkpoint if plan.refiner else None,
            "Refiner switch at": f"{plan.refiner.switch:g}"
            if plan.refiner and plan.refiner.switch_timestep is None
            else None,
            "Refiner switch timestep": plan.refiner.switch_timestep if plan.refiner else None,
            "Text encoders": write_names(model.text_encoders) or None,
            "Lora hashes": write_name_hashes(_shown_hashes(plan.adapters)) or None,
            "Adapters": rows_text(plan.adapters.rows) if plan.adapters.rows else None,
            "TI hashes": plan.embeddings.infotext,
            "RNG": plan.noise_source.label,
            "Emphasis": plan.emphasis.label if plan.emphasis.name != "original" else None,
            **_picture_parameters(plan),  # some of which have their places above
            "Version": f"Emulsion {__version__}",
        },
    )


def request_of(plan: GenerationPlan, seed: int) -> GenerationRequest:
    """The request that makes the image with `seed` alone, with nothing left open."""
    return GenerationRequest(
        prompt=plan.prompt,
        negative_prompt=plan.negative_prompt,
        checkpoint=plan.model.checkpoint,
        recipe=plan.model.recipe,
        vae=plan.model.vae,
        use_ema=plan.model.use_ema,
        prediction=plan.model.prediction,
        text_encoders=(*plan.model.text_encoders, *plan.model.unused_text_encoders),
        distilled_guidance=plan.distilled_guidance,
        guidance_rescale=plan.guidance_rescale,
        shift=plan.shift,
        refiner=plan.refiner.model.checkpoint if plan.refiner else None,
        refiner_switch=plan.refiner.switch if plan.refiner else DEFAULT_REFINER_SWITCH,
        refiner_switch_timestep=plan.refiner.switch_timestep if plan.refiner else None,
        sampler=plan.sampler.name,
        schedule=plan.schedule.name if plan.is_schedule_asked else "automatic",
        steps=plan.steps,
        width=plan.width,
        height=plan.height,
        guidance_scale=plan.guidance_scale,
        seed=seed,
        clip_skip=plan.clip_skip,
        emphasis=plan.emphasis.name,
        noise_source=plan.noise_source.name,
        exact_batches=plan.exact_batches,
        adapters=plan.adapters.rows,
        name_hashes=(
            *not_of_hypernetworks(of_other_files(plan.adapters.name_hashes)),
            *plan.embeddings.name_hashes,
            *plan.hypernetworks.name_hashes,
        ),
        skips_missing_adapters=plan.adapters.skips_missing,
        init=plan.init,
        tiles=plan.tiles,
        hires=plan.hires.hires if plan.hires else None,
        detailers=tuple(one.detailer for one in plan.details),
    )


def picture_texts(plan: GenerationPlan, seed: int) -> dict[str, str]:
    """The texts of a saved PNG by their keys."""
    exact = {
        "version": __version__,
        "request": request_of(plan, seed).to_mapping(),
        "model": _model_mapping(plan.model),
        "adapters": plan.adapters.facts(),
        "embeddings": plan.embeddings.facts(),
        "hypernetworks": plan.hypernetworks.facts(),
    }
    return {INFOTEXT_KEY: infotext_of(plan, seed), REQUEST_KEY: json.dumps(exact, ensure_ascii=False)}


def rows_text(rows: Sequence[AdapterRow]) -> str:
    """Adapters that no tag of the prompt asks for, on one line, without what is as usual."""
    values = [{name: value for name, value in row_mapping(row).items() if value is not None} for row in rows]
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def recipe_text(recipe: Recipe) -> str:
    """A recipe on one line, as `parse_recipe` reads it."""
    return json.dumps(recipe.to_mapping(), ensure_ascii=False, separators=(",", ":"))


def _picture_parameters(plan: GenerationPlan) -> dict[str, object]:
    return parameters_of(
        init=plan.init,
        hires=None if plan.hires is None else _with_labels(plan.hires),
        tiles=plan.tiles,
        detailers=[one.detailer for one in plan.details],
    )


def _with_labels(second: SecondPass) -> HiresFix:
    """Sampler and schedule, where they are its own, as other programs call them."""
    hires, plan = second.hires, second.plan
    return dataclasses.replace(
        hires,
        sampler=hires.sampler and plan.sampler.label,
        schedule=hires.schedule and plan.schedule.label,
    )


def _shown_hashes(adapters: PlannedAdapters) -> list[NameHash]:
    """Of tags and rows, under the names that the prompt has for them."""
    named = {one.tag or one.file.name: one.short_hash for one in adapters.acting if one.short_hash}
    return [NameHash(name=name, hash=digits) for name, digits in named.items()]


def _model_mapping(model: ModelName) -> dict[str, object]:
    values = dataclasses.asdict(dataclasses.replace(model, recipe=None))
    return {**values, "recipe": None if model.recipe is None else model.recipe.to_mapping()}
