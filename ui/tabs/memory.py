"""What is in the memory: where each part of a model is, budgets, the peaks of the last job, and when to let go.

Also how much of the disk the pictures take that jobs began with.
"""

from __future__ import annotations

from backend.engine.preferences import MAX_IDLE_MINUTES
from ui.components.panel_tab import panel_tab

_TEMPLATE = f"""
<section class="em-memory" aria-label="Memory">
  <div class="em-panel">
    <div class="em-panel-head">
      <h2>Budget</h2>
      <button type="button" class="em-action" data-do="unload">Unload everything</button>
    </div>
    <div class="em-gauges"></div>
  </div>
  <div class="em-panel">
    <div class="em-panel-head"><h2>What is where</h2></div>
    <p class="em-quiet em-nothing-held">Nothing is held. A model is loaded when a job needs it.</p>
    <table class="em-held" hidden>
      <thead><tr></tr></thead>
      <tbody></tbody>
    </table>
  </div>
  <div class="em-panel">
    <div class="em-panel-head"><h2>Peak of the last job, by stage</h2></div>
    <p class="em-quiet em-no-peaks">No job has run since the start.</p>
    <ol class="em-peaks" hidden></ol>
  </div>
  <div class="em-panel">
    <div class="em-panel-head">
      <h2>Stored pictures</h2>
      <button type="button" class="em-action" data-do="remove-pictures" aria-describedby="stored-pictures">
        Remove unused</button>
    </div>
    <p class="em-stored-pictures"></p>
    <p class="em-hint" id="stored-pictures">
      What jobs begin with is kept on the disk, so that their results can be made again. Pictures that no job and no
      plot in the list names are unused, an hour after they came.
    </p>
  </div>
  <div class="em-panel">
    <div class="em-panel-head"><h2>Settings</h2></div>
    <div class="em-field em-idle">
      <div class="em-field-head">
        <label for="field-idle-unload">Unload after minutes</label>
        <input id="field-idle-unload" type="number" inputmode="decimal" autocomplete="off" min="0"
          max="{MAX_IDLE_MINUTES}" step="any" aria-describedby="field-idle-unload-hint">
      </div>
      <p class="em-hint" id="field-idle-unload-hint">
        When nothing runs for that long all models leave the memory, and the next job loads them again. 0 keeps them.
      </p>
    </div>
    <div class="em-field">
      <label class="em-check"><input id="field-compile" type="checkbox" aria-describedby="field-compile-hint">
        Compile networks</label>
      <p class="em-hint" id="field-compile-hint">
        The first picture of a size then takes minutes longer. It is meant for GPUs; on a processor it gains little.
      </p>
    </div>
  </div>
</section>
"""


def build() -> None:
    """The tab. It shows what /api/v1/memory and /api/v1/pictures tell and asks nothing of Gradio."""
    panel_tab("Memory", _TEMPLATE, "memory_panel.js")
