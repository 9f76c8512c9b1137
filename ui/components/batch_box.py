"""A batch: the form's picture to begin with is replaced by each picture of a folder, or by each of several uploads."""

from __future__ import annotations

from html import escape

import gradio as gr

from backend.engine.batch_request import READ_FIELDS
from ui.scripts import mounts

_LABELS = {"guidance_scale": "guidance", "clip_skip": "CLIP skip", "vae": "VAE"}
_TEMPLATE = """
<section class="em-batch-box" data-form="{form}" aria-label="Batch">
  <p class="em-hint">Every picture of a folder on the machine of Emulsion, or every one that you choose here, is made
    into another with the settings of this form. A broken one costs itself only.</p>
  <label class="em-field em-labelled"><span class="em-label">Folder with pictures</span>
    <input type="text" autocomplete="off" spellcheck="false" data-part="folder" placeholder="its whole path"></label>
  <label class="em-field em-labelled"><span class="em-label">Or pictures from here</span>
    <input type="file" multiple accept="image/png,image/jpeg,image/webp" data-part="files"></label>
  <label class="em-field em-labelled"><span class="em-label">Folder with masks</span>
    <input type="text" autocomplete="off" spellcheck="false" data-part="masks"
      placeholder="of the same names, or one for all"></label>
  <details><summary>Settings that the pictures carry</summary>
    <div class="em-batch-reads">{reads}</div></details>
  <div class="em-actions">
    <button type="button" class="em-action em-strong" data-part="start">Start the batch</button>
  </div>
  <p class="em-hint" data-part="sending" role="status"></p>
  <div class="em-batch-list" data-part="batches"></div>
</section>
"""


def batch_box(form: str) -> None:
    """The box for the form of this name. It talks to /api/v1 by itself; the form must begin with a picture."""
    reads = "".join(
        f'<label class="em-check"><input type="checkbox" value="{escape(field)}"> {escape(_label(field))}</label>'
        for field in READ_FIELDS
    )
    gr.HTML(
        value=None,
        label="Batch",
        html_template=_TEMPLATE.format(form=escape(form), reads=reads),
        js_on_load=mounts("batch_box.js"),
        apply_default_css=False,
    )


def _label(field: str) -> str:
    return _LABELS.get(field, field.replace("_", " "))
