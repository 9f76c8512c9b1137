"""Which checkpoint and which VAE, and what the checkpoint's header says about itself."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, TypeAlias

import gradio as gr

from backend.engine.engine import Engine
from backend.errors import EmulsionError
from ui.choices import Choices, usual_checkpoint
from ui.scripts import mounts

Card: TypeAlias = dict[str, Any]

_TEMPLATE = '<div class="em-model" role="group" aria-label="About this checkpoint"></div>'
_MAX_TEXT = 600  # characters of a title, a hint or a licence


class ModelPicker(NamedTuple):
    checkpoint: gr.Dropdown
    refresh: gr.Button
    card: gr.HTML
    vae: gr.Dropdown


def model_picker(engine: Engine, choices: dict[str, Choices]) -> ModelPicker:
    """The components; the value of the card is what `card_of` gives."""
    usual = usual_checkpoint(engine)
    with gr.Row(elem_classes=["em-with-icon"]):
        checkpoint = gr.Dropdown(choices["checkpoint"], value=usual or None, label="Checkpoint", min_width=160)
        refresh = gr.Button(
            "Look for new models", elem_classes=["em-icon", "em-refresh"], size="sm", min_width=40, scale=0
        )
    card = gr.HTML(
        value=card_of(engine, usual),
        label="About this checkpoint",
        html_template=_TEMPLATE,
        js_on_load=mounts("model_card.js"),
        apply_default_css=False,
    )
    vae = gr.Dropdown(choices["vae"], value="", label="VAE", min_width=160)
    return ModelPicker(checkpoint, refresh, card, vae)


def card_of(engine: Engine, checkpoint: str) -> Card:
    """What the card shows of a checkpoint, or why it cannot be used. The number fields read their defaults here."""
    try:
        facts = engine.describe_checkpoint(checkpoint or None)
    except EmulsionError as error:
        return {"problem": str(error)}
    return {
        "family": facts.family_label,
        "native_size": facts.native_size,
        "title": facts.title[:_MAX_TEXT],
        "usage_hint": facts.usage_hint[:_MAX_TEXT],
        "licence": facts.licence[:_MAX_TEXT],
        "defaults": dataclasses.asdict(facts.defaults),
    }
