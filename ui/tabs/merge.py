"""Merging: models, rule, weights by block, previews, saving, plots, and the tools for LoRAs."""

from __future__ import annotations

from ui.components.panel_tab import panel_tab

_TEMPLATE = """
<section class="em-merge" aria-label="Merge">
  <div class="em-status" data-part="line" hidden>
    <p class="em-status-text" role="alert"></p>
    <button type="button" class="em-icon em-close" aria-label="Close this message"></button>
  </div>
  <div class="em-merge-column">
    <div class="em-panel">
      <div class="em-panel-head">
        <h2>Models</h2><button type="button" class="em-action" data-part="swap">Swap A and B</button>
      </div>
      <div class="em-models" data-part="models"></div>
      <button type="button" class="em-action" data-part="add-model" hidden>Add a model</button>
      <div data-part="rule"></div>
      <p class="em-formula" data-part="formula"></p>
      <p class="em-hint" data-part="explanation"></p>
      <div class="em-numbers-list" data-part="numbers"></div>
    </div>
    <div class="em-panel">
      <div class="em-panel-head"><h2>Also</h2></div>
      <div class="em-numbers-list" data-part="extras"></div>
      <section class="em-adapters" data-part="added" aria-label="LoRAs that are added to the merge"></section>
    </div>
    <div class="em-panel">
      <div class="em-panel-head"><h2>Result</h2></div>
      <p data-part="summary"></p>
      <div data-part="report"></div>
      <label class="em-field em-labelled"><span class="em-label">Name</span>
        <input type="text" data-part="name" autocomplete="off" placeholder="of a recipe or a checkpoint"></label>
      <label class="em-check"><input type="checkbox" data-part="replace"> Replace a checkpoint of this name</label>
      <div class="em-actions">
        <button type="button" class="em-action em-strong" data-part="save-checkpoint">Save as checkpoint</button>
        <button type="button" class="em-action" data-part="save-recipe">Save recipe</button>
      </div>
      <div class="em-saving" data-part="saving" aria-live="polite"></div>
    </div>
    <div class="em-panel">
      <div class="em-panel-head"><h2>Recipes that were used</h2></div>
      <p class="em-quiet" data-part="no-history">
        None yet. Drop a picture, a merged checkpoint or a recipe here to restore one.</p>
      <ol class="em-history-list" data-part="history"></ol>
    </div>
  </div>
  <div class="em-merge-column">
    <div class="em-panel" data-part="block-panel" hidden>
      <div class="em-panel-head">
        <h2>Weights by block</h2>
        <div class="em-actions" data-part="edited"></div>
        <span class="em-quiet" data-part="family"></span>
      </div>
      <div data-part="bank"></div>
      <p class="em-block-hint" data-part="hint">Draw across the sliders, type a number, or use the arrow keys.
        A double click gives a block back to the base.</p>
      <div class="em-bank-tools">
        <span data-part="preset"></span>
        <button type="button" class="em-action" data-part="undo">Undo</button>
        <button type="button" class="em-action" data-part="redo">Redo</button>
        <button type="button" class="em-action" data-part="mirror">Mirror</button>
        <button type="button" class="em-action" data-part="invert">Invert</button>
        <button type="button" class="em-action" data-part="smooth">Smooth</button>
        <button type="button" class="em-action" data-part="reset">Reset</button>
        <button type="button" class="em-action" data-part="compare">Compare A and B</button>
      </div>
      <div class="em-bank-tools">
        <input type="text" data-part="preset-name" autocomplete="off" placeholder="Name of a preset of your own"
          aria-label="Name of a preset of your own">
        <button type="button" class="em-action" data-part="save-preset">Save preset</button>
        <button type="button" class="em-action" data-part="remove-preset" hidden>Remove preset</button>
      </div>
      <p class="em-hint" data-part="more"></p>
      <details data-part="kinds"><summary>By kind of layer</summary><div class="em-selections"></div></details>
      <details data-part="streams"><summary>By stream</summary><div class="em-selections"></div></details>
      <details>
        <summary>As text: 26 or 20 numbers, IN00=0.2, lines of other programs</summary>
        <div class="em-text-tools">
          <textarea data-part="text" aria-label="Weights as text" spellcheck="false"></textarea>
          <span data-part="reading"></span>
          <div class="em-actions">
            <button type="button" class="em-action" data-part="read">Read</button>
            <button type="button" class="em-action" data-part="copy">Copy the present ones</button>
          </div>
        </div>
      </details>
    </div>
    <div class="em-panel">
      <div class="em-panel-head">
        <h2>Preview</h2>
        <label class="em-check"><input type="checkbox" data-part="automatic"> After every change</label>
      </div>
      <div class="em-preview-fields">
        <label class="em-field em-labelled"><span class="em-label">Prompt</span>
          <textarea data-part="prompt" rows="2"></textarea></label>
        <label class="em-field em-labelled"><span class="em-label">Seed</span>
          <input type="number" data-part="seed" min="0" step="1" value="1"></label>
      </div>
      <div class="em-actions">
        <button type="button" class="em-action em-strong" data-part="preview">Preview</button>
        <button type="button" class="em-action" data-part="generate">Generate with this recipe</button>
        <button type="button" class="em-action" data-part="send">Send to txt2img</button>
      </div>
      <div data-part="previews"></div>
    </div>
    <div class="em-panel">
      <div class="em-panel-head"><h2>X/Y plot</h2></div>
      <div class="em-numbers-list" data-part="plots"></div>
    </div>
    <div class="em-panel">
      <div class="em-panel-head"><h2>LoRA tools</h2></div>
      <div class="em-numbers-list" data-part="loras"></div>
    </div>
  </div>
</section>
"""


def build() -> None:
    """The tab. It talks to /api/v1 by itself and asks nothing of Gradio."""
    panel_tab("Merge", _TEMPLATE, "merge_panel.js")
