"""Tabs that are pages of their own: a script fills them and talks to /api/v1, and Gradio is asked nothing."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.scripts import mounts


def panel_tab(label: str, template: str, script: str, value: Any = None) -> None:
    """template: HTML without placeholders. script: in ui/assets, whose `mount` is called. value: told to it."""
    with gr.Tab(label, id=label.lower(), elem_classes=["em-plain-tab"]):
        panel(label, template, script, value)


def panel(label: str, template: str, script: str, value: Any = None) -> gr.HTML:
    """The same within a layout."""
    return gr.HTML(value=value, label=label, html_template=template, js_on_load=mounts(script), apply_default_css=False)
