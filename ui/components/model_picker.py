"""Which checkpoint, and which VAE and text encoders in place of its own."""

from __future__ import annotations

from typing import NamedTuple

import gradio as gr

from backend.engine.engine import Engine
from ui.choices import Choices, usual_checkpoint
from ui.components.model_card import card_of, model_card


class ModelPicker(NamedTuple):
    checkpoint: gr.Dropdown
    refresh: gr.Button
    card: gr.HTML
    vae: gr.Dropdown
    text_encoders: gr.Dropdown
    recipe: gr.Textbox


def model_picker(engine: Engine, choices: dict[str, Choices]) -> ModelPicker:
    usual = usual_checkpoint(engine)
    with gr.Row(elem_classes=["em-with-icon"]):
        checkpoint = gr.Dropdown(choices["checkpoint"], value=usual or None, label="Checkpoint", min_width=160)
        refresh = gr.Button(
            "Look for new models", elem_classes=["em-icon", "em-refresh"], size="sm", min_width=40, scale=0
        )
    card = model_card(card_of(engine, usual))
    with gr.Row(elem_classes=["em-parts"]):
        vae = gr.Dropdown(choices["vae"], value="", label="VAE", min_width=140)
        text_encoders = gr.Dropdown(
            choices["text_encoders"],
            value=[],
            multiselect=True,
            label="Text encoders",
            min_width=160,
            elem_classes=["em-several"],
        )
    recipe = gr.Textbox(
        value="",
        label="Recipe",
        info="Makes the model in place of the checkpoint. Choose a checkpoint to be rid of it.",
        placeholder=" ",
        lines=2,
        max_lines=4,
        elem_classes=["em-recipe"],
    )
    return ModelPicker(checkpoint, refresh, card, vae, text_encoders, recipe)
