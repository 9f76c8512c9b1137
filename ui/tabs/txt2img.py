"""Text to image: the form on the left, pictures on the right."""

from __future__ import annotations

import gradio as gr

from backend.engine.engine import Engine
from ui.generation_form import generation_form


def build(engine: Engine) -> None:
    with gr.Tab("txt2img", id="txt2img"):
        generation_form(engine, "txt2img")
