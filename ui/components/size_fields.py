"""Width and height, with a swap button and shapes that suit the model."""

from __future__ import annotations

from typing import NamedTuple

import gradio as gr

from backend.request import MAX_SIDE, MIN_SIDE
from ui.components.number_field import number_field
from ui.scripts import calls, mounts

_TEMPLATE = '<div class="em-shapes" role="group" aria-label="Shape of the picture"></div>'

_FACTORS = """
<div class="em-shapes em-factors" role="group" aria-label="Size by the picture" hidden></div>
"""


class SizeFields(NamedTuple):
    width: gr.HTML
    height: gr.HTML


def size_fields(form: str, *, has_picture: bool) -> SizeFields:
    """Both sides, which follow the model's native size, or that of the picture to begin with, until they are set."""
    with gr.Row(elem_classes=["em-size"]):
        width = _side(form, "width", "Width")
        swap = gr.Button("Swap width and height", elem_classes=["em-icon", "em-swap"], size="sm", min_width=40, scale=0)
        height = _side(form, "height", "Height")
    shapes = gr.HTML(
        value=None,
        label="Shape",
        html_template=_TEMPLATE,
        js_on_load=mounts("size_presets.js", "select"),
        apply_default_css=False,
    )
    sides = [width, height]
    if has_picture:
        factors = gr.HTML(
            value=None,
            label="Factor of the picture's size",
            html_template=_FACTORS,
            js_on_load=mounts("init_size.js", "select"),
            apply_default_css=False,
        )
        factors.select(
            None, factors, sides, js=calls("size_presets.js", "chosen"), api_visibility="private", queue=False
        )
    swap.click(None, sides, sides, js=calls("size_presets.js", "swapped"), api_visibility="private", queue=False)
    shapes.select(None, shapes, sides, js=calls("size_presets.js", "chosen"), api_visibility="private", queue=False)
    return SizeFields(width, height)


def _side(form: str, name: str, label: str) -> gr.HTML:
    return number_field(name, label, form=form, minimum=MIN_SIDE, maximum=MAX_SIDE, step=8, slider=(MIN_SIDE, 2048))
