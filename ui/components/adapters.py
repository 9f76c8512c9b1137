"""The LoRAs of a picture: rows that can be switched off, put in order and set block by block (see adapter_rows.js)."""

from __future__ import annotations

from typing import NamedTuple

import gradio as gr

from ui.scripts import mounts

_TEMPLATE = '<section class="em-adapters" aria-label="LoRAs"></section>'


class AdapterFields(NamedTuple):
    adapters: gr.HTML
    skips_missing_adapters: gr.Checkbox
    name_hashes: gr.HTML


def adapter_fields() -> AdapterFields:
    """adapters: its value is a list as ui/adapter_rows.py describes it. name_hashes: what a pasted text brought along;
    nobody sees it."""
    with gr.Column(elem_classes=["em-card", "em-adapter-card"]):
        adapters = gr.HTML(
            value=[],
            label="LoRAs",
            html_template=_TEMPLATE,
            js_on_load=mounts("adapter_rows.js", "change"),
            apply_default_css=False,
        )
        skips_missing_adapters = gr.Checkbox(
            value=False,
            label="Go on without missing LoRAs",
            info="Those that rows or the prompt name and that are not here are left out, and it is said.",
            elem_classes=["em-skips"],
        )
        name_hashes = gr.HTML(
            value=None, label="Files of names", html_template="", apply_default_css=False, visible="hidden"
        )
    return AdapterFields(adapters, skips_missing_adapters, name_hashes)
