"""Regions of the finished picture that are made again at the full size: a list of passes (see detail_passes.js)."""

from __future__ import annotations

import gradio as gr

from ui.scripts import mounts

_TEMPLATE = '<section class="em-passes" aria-label="Detail passes"></section>'


def detail_field() -> gr.HTML:
    """Its value is a list of JSON values of `Detailer`."""
    return gr.HTML(
        value=[],
        label="Details",
        html_template=_TEMPLATE,
        js_on_load=mounts("detail_passes.js", "change"),
        apply_default_css=False,
    )
