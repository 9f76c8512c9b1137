"""What reaches the form from outside its fields: values that the browser kept, pasted text, a dropped picture."""

from __future__ import annotations

import gradio as gr

from ui.scripts import mounts


def form_bridge(form: str) -> gr.HTML:
    """An invisible component with two events.

    opened: the form was loaded; `values` are the fields as they were left, by name.
    pasted: `text` is an infotext.
    Its value is {"state": "open"} once the form has been brought back, and {"turn_to": a tab, "text": infotext} for a
    text that belongs to the form of another tab.
    """
    return gr.HTML(
        value=None,
        label="Form",
        html_template=f'<span data-form="{form}"></span>',
        js_on_load=mounts("form.js", "opened", "pasted"),
        apply_default_css=False,
        visible="hidden",
    )
