"""The top line: the program's name, whether the server answers, the device, and the choice of light or dark."""

from __future__ import annotations

import gradio as gr

from backend.engine.engine import Engine
from ui.scripts import mounts

_TEMPLATE = """
<header class="em-header">
  <h1 class="em-brand"><span class="em-mark" aria-hidden="true"></span>Emulsion</h1>
  <div class="em-header-end">
    <span class="em-connection" role="status" hidden>Server does not answer; trying again</span>
    <span class="em-device"></span>
    <button type="button" class="em-icon em-theme" aria-label="Theme"></button>
  </div>
</header>
"""


def header(engine: Engine) -> None:
    gr.HTML(
        value=engine.device.name,
        label="Emulsion",
        html_template=_TEMPLATE,
        js_on_load=mounts("header.js"),
        apply_default_css=False,
        elem_id="em-header",
    )
