"""Where pictures form and stay: preview and progress, the selected picture and its settings, and the queue.

It shows what the server's event stream tells and asks nothing of Gradio, so that it survives a reload and never waits
for an event of the form.
"""

from __future__ import annotations

import gradio as gr

from ui.element_ids import FIRST_FORM
from ui.scripts import mounts

_TEMPLATE = """
<section class="em-results" aria-label="Results">
  <div class="em-stage">
    <div class="em-empty">
      <span class="em-empty-mark" aria-hidden="true"></span>
      <p>Pictures develop here</p>
      <p class="em-quiet">Type a prompt and press <kbd>Ctrl</kbd> <kbd>Enter</kbd></p>
    </div>
    <button type="button" class="em-picture-button" hidden aria-label="Enlarge the selected picture">
      <img class="em-picture" alt="">
    </button>
    <img class="em-preview" alt="Live preview" hidden>
  </div>
  <div class="em-progress" hidden>
    <div class="em-progress-line">
      <span class="em-stage-name" role="status"></span>
      <span class="em-numbers"></span>
    </div>
    <progress class="em-bar" max="1" value="0" aria-label="Progress of the job"></progress>
  </div>
  <ol class="em-queue" aria-label="Waiting jobs" hidden></ol>
  <div class="em-strip" role="listbox" aria-label="Pictures" aria-orientation="horizontal" hidden></div>
  <div class="em-details" hidden>
    <div class="em-actions">
      <button type="button" class="em-action" data-do="again"
        title="The same job once more: the same files on the same device">Make again</button>
      <button type="button" class="em-action" data-do="settings">Use settings</button>
      <button type="button" class="em-action" data-do="seed">Use seed</button>
      <button type="button" class="em-action" data-do="img2img" hidden>To img2img</button>
      <button type="button" class="em-action" data-do="inpaint" hidden>To inpaint</button>
      <button type="button" class="em-action" data-do="extras" hidden>To extras</button>
      <button type="button" class="em-action" data-do="hires"
        title="Make this picture again, enlarged as the form's hires fix says">Hires this picture</button>
      <button type="button" class="em-action" data-do="compare" aria-pressed="false"
        title="Lay another picture over this one">Compare</button>
      <button type="button" class="em-action" data-do="before" hidden
        title="Lay it over the picture that it was made larger from">Before and after</button>
      <button type="button" class="em-action" data-do="copy">Copy infotext</button>
      <a class="em-action" data-do="download" download>Download</a>
    </div>
    <pre class="em-infotext" tabindex="0" aria-label="Infotext of the selected picture"></pre>
  </div>
</section>
"""


def results_place(form: str) -> None:
    """Where the panel stands in the tab of `form`. There is one panel, which is carried to the tab that is open."""
    is_first = form == FIRST_FORM
    gr.HTML(
        value=None,
        label="Results",
        html_template=_TEMPLATE if is_first else '<div class="em-results-place"></div>',
        js_on_load=mounts("results.js" if is_first else "results_place.js"),
        apply_default_css=False,
        elem_classes=["em-results-block"],
    )
