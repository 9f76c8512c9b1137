"""The editor of a picture: what of it may change, colours painted on it, and new borders around it."""

from __future__ import annotations

from html import escape

import gradio as gr

from ui.scripts import mounts

_TEMPLATE = (
    '<section class="em-canvas" data-canvas="{id}" data-name="{label}" data-masks="{masks}" data-paints="{paints}" '
    'data-borders="{borders}" aria-label="{label}"></section>'
)


def mask_canvas(
    name: str, label: str, *, has_mask: bool = True, has_paint: bool = False, has_borders: bool = False
) -> gr.HTML:
    """A canvas whose value is JSON text as ui/canvas_value.py describes it, "" while it is empty.

    A handler that sets it to such a text fills the canvas, which can be undone; "" leaves it alone.

    name: the component's id on the page is "canvas-<name>"; the browser keeps what is on the canvas under it, and
    scripts find it by it (`flush`, `setCanvas`, `canvasOf` of mask_canvas.js).
    has_mask, has_paint, has_borders: what can be done to a picture besides looking at it.
    """
    canvas_id = f"canvas-{name}"
    # The script reads these here and not in Gradio's props, which an update in a closed accordion wipes out.
    template = _TEMPLATE.format(
        id=escape(canvas_id),
        label=escape(label),
        masks=_flag(has_mask),
        paints=_flag(has_paint),
        borders=_flag(has_borders),
    )
    return gr.HTML(
        value="",
        label=label,
        html_template=template,
        js_on_load=mounts("mask_canvas.js", "change"),
        apply_default_css=False,
        elem_id=canvas_id,
        min_width=120,
    )


def _flag(value: bool) -> str:
    return "yes" if value else "no"
