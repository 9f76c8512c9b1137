"""Image to image: a picture that the prompt changes."""

from __future__ import annotations

import gradio as gr

from backend.engine.engine import Engine
from ui.binding import Fields
from ui.choices import Choices
from ui.components.batch_box import batch_box
from ui.components.init_fields import noise_fields, resize_fields, strength_field
from ui.components.mask_canvas import mask_canvas
from ui.generation_form import generation_form


def build(engine: Engine) -> None:
    with gr.Tab("img2img", id="img2img"):
        generation_form(engine, "img2img", _picture)


def _picture(form: str, choices: dict[str, Choices]) -> Fields:
    with gr.Column(elem_classes=["em-card"]):
        picture = mask_canvas("img2img", "Picture", has_mask=False, has_paint=True)
        strength = strength_field(form)
        resize = resize_fields(choices)
    with gr.Accordion("Noise and colours", open=False, elem_classes=["em-card"]):
        noise = noise_fields(form)
    with gr.Accordion("Batch", open=False, elem_classes=["em-card"]):
        batch_box("img2img")
    return {"init": picture, **strength, **resize, **noise}
