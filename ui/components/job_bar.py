"""Cancel, beside Generate, for as long as there is something to cancel."""

from __future__ import annotations

import gradio as gr

from ui.scripts import mounts

_TEMPLATE = """
<div class="em-job-bar">
  <button type="button" class="em-cancel" disabled title="Esc">Cancel</button>
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
