"""New pixels around a picture (outpainting)."""

from __future__ import annotations

import gradio as gr

from backend.init_image import BorderFill
from ui.binding import Fields
from ui.components.number_field import number_field

_FILLS = [("The picture, mirrored", BorderFill.MIRROR.value), ("Noise like its edge", BorderFill.EDGE_NOISE.value)]


def border_fields(form: str) -> Fields:
    """How new borders begin; how wide they are is said on the canvas."""
    with gr.Row():
        fill = gr.Dropdown(_FILLS, value=BorderFill.MIRROR.value, label="New borders begin with", min_width=150)
        overlap = number_field(
            "init.borders.overlap",
            "Border overlap",
            form=form,
            minimum=0,
            maximum=512,
            step=1,
            slider=(0, 128),
            value=32,
        )
    return {"init.borders.fill": fill, "init.borders.overlap": overlap}
