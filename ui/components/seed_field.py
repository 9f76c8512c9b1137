"""The seed: empty for a new one each time, with dice and the seed of the selected picture."""

from __future__ import annotations

import gradio as gr

from ui.element_ids import element_id
from ui.scripts import mounts

_TEMPLATE = """
<div class="em-field">
  <div class="em-field-head"><label for="{id}">Seed</label></div>
  <div class="em-seed">
    <input id="{id}" type="text" inputmode="numeric" autocomplete="off" spellcheck="false" maxlength="20"
      pattern="-1|[0-9]*" placeholder="random">
    <button type="button" class="em-icon em-dice" aria-label="Random seed" title="A new seed for every job"></button>
    <button type="button" class="em-icon em-reuse" aria-label="Reuse seed"
      title="Take the seed of the selected picture"></button>
  </div>
</div>
"""


def seed_field(form: str) -> gr.HTML:
    """A field whose value is the seed as text, because JavaScript rounds numbers above 2**53; "" draws one."""
    return gr.HTML(
        value="",
        label="Seed",
        html_template=_TEMPLATE.format(id=element_id("field", form, "seed")),
        js_on_load=mounts("seed_field.js", "change"),
        apply_default_css=False,
        min_width=200,
    )
