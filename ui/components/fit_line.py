"""One line above Generate: whether the job would fit into the memory, or what is wrong with it."""

from __future__ import annotations

import gradio as gr

from ui.scripts import mounts


def fit_line() -> gr.HTML:
    """It asks the server by itself when the model or the size change; see fit_line.js."""
    return gr.HTML(
        value=None,
        label="Will it fit",
        html_template='<p class="em-fit" role="status" hidden></p>',
        js_on_load=mounts("fit_line.js"),
        apply_default_css=False,
        elem_classes=["em-fit-block"],
    )
