"""Width and height, with a swap button and shapes that suit the model."""

from __future__ import annotations

from typing import NamedTuple

import gradio as gr

from backend.request import MAX_SIDE, MIN_SIDE
from ui.components.number_field import number_field
from ui.scripts import calls, mounts

_TEMPLATE = '<div class="em-shapes" role="group" aria-label="Shape of the picture"></div>'


class SizeFields(NamedTuple):
    width: gr.HTML
    height: gr.HTML


def size_fields() -> SizeFields:
    """Both sides, which follow the model's native size until they are set."""
    with gr.Row(elem_classes=["em-size"]):
        width = _side("width", "Width")
        swap = gr.Button("Swap width and height", elem_classes=["em-icon", "em-swap"], size="sm", min_width=40, scale=0)
        height = _side("height", "Height")
    shapes = gr.HTML(
        value=None,
        label="Shape",
        html_template=_TEMPLATE,
        js_on_load=mounts("size_presets.js", "select"),
        apply_default_css=False,
    )
    sides = [width, height]
    swap.click(None, sides, sides, js=calls("size_presets.js", "swapped"), api_visibility="private", queue=False)
    shapes.select(None, shapes, sides, js=calls("size_presets.js", "chosen"), api_visibility="private", queue=False)
    return SizeFields(width, height)


def _side(name: str, label: str) -> gr.HTML:
    return number_field(name, label, minimum=MIN_SIDE, maximum=MAX_SIDE, step=8, slider=(MIN_SIDE, 2048))
