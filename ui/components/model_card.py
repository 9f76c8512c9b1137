"""What a checkpoint's header says: what it is, how it is used when nothing is chosen, and what it holds or lacks."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import gradio as gr

from backend.engine.components import ENCODER_LABELS
from backend.engine.engine import Engine
from backend.errors import EmulsionError
from backend.families.family import Description
from backend.request import PredictionKind
from ui.scripts import mounts

Card: TypeAlias = dict[str, Any]

_TEMPLATE = '<div class="em-model" role="group" aria-label="About this checkpoint"></div>'
_MAX_TEXT = 600  # characters of a title, a hint or a licence


def model_card(card: Card) -> gr.HTML:
    """The component; its value is what `card_of` gives."""
    return gr.HTML(
        value=card,
        label="About this checkpoint",
        html_template=_TEMPLATE,
        js_on_load=mounts("model_card.js"),
        apply_default_css=False,
    )


def card_of(engine: Engine, checkpoint: str, prediction: PredictionKind | None = None) -> Card:
    """What the card shows of a checkpoint, or why it cannot be used. The fields of the form read their defaults here.

    parts: [name, where it is, kind] of each part, the kind being "inside", "file", "missing" or "optional".
    """
    try:
        facts = engine.describe_checkpoint(checkpoint or None, prediction)
    except EmulsionError as error:
        return {"problem": str(error)}
    description = facts.description
    return {
        "family": facts.family_label,
        "native_size": description.native_size,
        "size_step": description.size_step,
        "has_shift": description.has_shift,
        "is_refiner": description.is_refiner,
        "picture_use": description.picture_use.value,
        "title": facts.title[:_MAX_TEXT],
        "usage_hint": facts.usage_hint[:_MAX_TEXT],
        "licence": facts.licence[:_MAX_TEXT],
        "defaults": dataclasses.asdict(description.defaults),
        "usual": _usual(engine, description),
        "parts": [*_text_encoders(engine, description), _vae(engine, description)],
    }


def _usual(engine: Engine, description: Description) -> str:
    """The defaults in a line, as names that people know."""
    defaults = description.defaults
    sampler = engine.catalog.samplers[defaults.sampler].label
    is_named = defaults.schedule in engine.catalog.schedules
    schedule = f" {engine.catalog.schedules[defaults.schedule].label}" if is_named else ""
    said = [f"{defaults.steps} steps", f"{sampler}{schedule}", f"guidance {defaults.guidance_scale:g}"]
    if defaults.distilled_guidance is not None:
        said.append(f"distilled guidance {defaults.distilled_guidance:g}")
    if defaults.guidance_rescale:
        said.append(f"guidance rescale {defaults.guidance_rescale:g}")
    if defaults.clip_skip > 1:
        said.append(f"CLIP skip {defaults.clip_skip}")
    return ", ".join(said)


def _text_encoders(engine: Engine, description: Description) -> list[list[str]]:
    files = {encoder.kind: encoder.name for encoder in reversed(engine.library.text_encoders())}
    parts: list[list[str]] = []
    for kind in description.text_encoders:
        label = ENCODER_LABELS[kind]
        if kind in description.embedded:
            parts.append([label, "inside", "inside"])
        elif kind in files:
            parts.append([label, files[kind], "file"])
        elif kind in description.needed or not description.embedded:
            parts.append([label, "missing: put it into models/text_encoders", "missing"])
        else:
            parts.append([label, "not inside, and works without it", "optional"])
    return parts


def _vae(engine: Engine, description: Description) -> list[str]:
    if description.has_vae:
        return ["VAE", "inside", "inside"]
    fitting = [vae.name for vae in engine.library.vaes() if vae.latent_channels == description.latent_channels]
    match fitting:
        case [name]:
            return ["VAE", name, "file"]
        case []:
            return ["VAE", "missing: put it into models/vae", "missing"]
        case _:
            return ["VAE", "not inside: choose one below", "missing"]
