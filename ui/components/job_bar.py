"""Beside Generate: Cancel, for as long as there is something to cancel, and a switch for going on forever."""

from __future__ import annotations

import gradio as gr

from ui.scripts import mounts

_TEMPLATE = """
<div class="em-job-bar">
  <button type="button" class="em-cancel" disabled title="Esc">Cancel</button>
  <button type="button" class="em-forever" aria-pressed="false" aria-label="Forever"
    title="Generate forever: queue this form again with a new seed whenever the queue has run empty.
It ends when this page is reloaded or closed.">∞</button>
  <span class="em-waiting" role="status"></span>
</div>
"""


def job_bar() -> None:
    gr.HTML(
        value=None,
        label="Cancel",
        html_template=_TEMPLATE,
        js_on_load=mounts("job_bar.js"),
        apply_default_css=False,
        elem_classes=["em-job-bar-block"],
        min_width=120,
    )
