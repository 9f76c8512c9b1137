"""What reaches the form from outside its fields: values that the browser kept, pasted text, a dropped picture."""

from __future__ import annotations

import gradio as gr

from ui.scripts import mounts


def form_bridge() -> gr.HTML:
    """An invisible component with two events.

    opened: the page was loaded; `values` are the fields as they were left, by name.
    pasted: `text` is an infotext.
    """
    return gr.HTML(
        value=None,
        label="Form",
        html_template="",
        js_on_load=mounts("form.js", "opened", "pasted"),
        apply_default_css=False,
        visible="hidden",
    )
