"""Extras: pictures made larger without a prompt, and what pictures say about how they were made."""

from __future__ import annotations

import gradio as gr

from ui.components.results_panel import results_place
from ui.components.status_line import status_line
from ui.scripts import mounts

_TEMPLATE = """
<section class="em-extras" aria-label="Extras">
  <div class="em-card em-extras-pictures">
    <div class="em-extras-drop" data-part="drop">
      <span class="em-extras-mark" aria-hidden="true"></span>
      <p>Drop or paste pictures here</p>
      <div class="em-actions">
        <button type="button" class="em-action" data-part="open">Open pictures</button>
        <button type="button" class="em-action" data-part="folder">Open a folder</button>
      </div>
    </div>
    <div class="em-extras-head" data-part="head" hidden>
      <span class="em-label" data-part="count" role="status"></span>
      <div class="em-actions">
        <button type="button" class="em-action" data-part="more">Add</button>
        <button type="button" class="em-action" data-part="more-folder">Add a folder</button>
        <button type="button" class="em-action" data-part="clear">Remove all</button>
      </div>
    </div>
    <ul class="em-extras-list" data-part="list" aria-label="Pictures to make larger" hidden></ul>
    <div class="em-extras-refused" data-part="refused" role="alert" hidden></div>
  </div>
  <div class="em-extras-settings">
    <div class="em-card" data-part="size" role="group" aria-label="Size"></div>
    <div class="em-card" data-part="upscalers" role="group" aria-label="Upscalers"></div>
  </div>
  <div class="em-card" data-part="texts" role="group" aria-label="What the picture says" hidden></div>
  <div class="em-go">
    <button type="button" class="em-generate em-extras-start" data-part="start" title="Ctrl Enter">Upscale</button>
    <button type="button" class="em-cancel" data-part="cancel" disabled title="Esc">Cancel</button>
    <span class="em-waiting" data-part="waiting" role="status"></span>
  </div>
</section>
"""


def build() -> None:
    """The tab. It talks to /api/v1 by itself and asks nothing of Gradio."""
    with gr.Tab("Extras", id="extras"), gr.Row(elem_classes=["em-columns", "em-with-picture"]):
        with gr.Column(elem_classes=["em-form"], scale=0):
            gr.HTML(
                value=None,
                label="Extras",
                html_template=_TEMPLATE,
                js_on_load=mounts("extras_panel.js"),
                apply_default_css=False,
            )
        with gr.Column(elem_classes=["em-side"], scale=1):
            status_line()
            results_place("extras")
