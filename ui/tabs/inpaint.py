"""Inpainting and outpainting: a part of a picture, or what lies around it, is made again."""

from __future__ import annotations

import gradio as gr

from backend.engine.engine import Engine
from ui.binding import Fields
from ui.choices import Choices
from ui.components.batch_box import batch_box
from ui.components.border_fields import border_fields
from ui.components.init_fields import noise_fields, resize_fields, strength_field
from ui.components.mask_canvas import mask_canvas
from ui.components.mask_fields import mask_fields
from ui.generation_form import generation_form


def build(engine: Engine) -> None:
    with gr.Tab("inpaint", id="inpaint"):
        generation_form(engine, "inpaint", _picture)


def _picture(form: str, choices: dict[str, Choices]) -> Fields:
    with gr.Column(elem_classes=["em-card"]):
        picture = mask_canvas("inpaint", "Picture and mask", has_paint=True, has_borders=True)
        strength = strength_field(form)
    with gr.Column(elem_classes=["em-card"]):
        mask = mask_fields(form)
        borders = border_fields(form)
    with gr.Accordion("Size, noise and colours", open=False, elem_classes=["em-card"]):
        resize = resize_fields(choices)
        noise = noise_fields(form)
    with gr.Accordion("Batch", open=False, elem_classes=["em-card"]):
        batch_box("inpaint")
    return {"init": picture, **strength, **mask, **borders, **resize, **noise}
