"""LoRAs as cards: finding one, putting it into the prompt, and what is known and noted about it."""

from __future__ import annotations

from backend.engine.engine import Engine
from ui.components.panel_tab import panel_tab

_TEMPLATE = """
<section class="em-loras" aria-label="LoRA">
  <div class="em-status" data-part="line" hidden>
    <p class="em-status-text" role="alert"></p>
    <button type="button" class="em-icon em-close" aria-label="Close this message"></button>
  </div>
  <div class="em-lora-main">
    <div class="em-lora-bar" role="search" aria-label="LoRAs">
      <input type="search" data-part="search" aria-label="Search LoRAs" aria-keyshortcuts="/" autocomplete="off"
        spellcheck="false" placeholder="Name, trigger words, notes, folder ( / )">
      <span data-part="kind"></span>
      <span data-part="sort"></span>
      <span data-part="family"></span>
      <label class="em-check"><input type="checkbox" data-part="fits"> Fits the checkpoint</label>
      <button type="button" class="em-icon em-refresh" data-part="refresh" aria-label="Look for new LoRAs"
        title="Look for new LoRAs"></button>
    </div>
    <div class="em-lora-places">
      <nav class="em-lora-folders" data-part="folders" aria-label="Folders"></nav>
      <span class="em-lora-count" data-part="count" role="status"></span>
    </div>
    <ul class="em-cards" data-part="cards" aria-label="Files"></ul>
    <div class="em-lora-none" data-part="none" hidden></div>
    <form class="em-lora-find" data-part="find">
      <label class="em-field em-labelled"><span class="em-label">Find by hash</span>
        <input type="text" data-part="hash" autocomplete="off" spellcheck="false" aria-describedby="em-lora-found"
          placeholder="of a file, or as pictures of other programs have it"></label>
      <button class="em-action">Find</button>
      <p class="em-hint" id="em-lora-found" data-part="found" aria-live="polite"></p>
    </form>
    <p class="em-hint em-lora-keys">
      A click puts a LoRA into the prompt of txt2img, and another one takes it out. <kbd>Shift</kbd> and a click make a
      row of it. Arrow keys move, <kbd>Enter</kbd> inserts, <kbd>i</kbd> shows the details.</p>
  </div>
  <aside class="em-panel em-lora-details" data-part="details" aria-label="Details" hidden></aside>
</section>
"""


def build(engine: Engine) -> None:
    """The tab. It talks to /api/v1 by itself; Gradio tells it the folders that files belong into."""
    folders = [str(folder) for folder in engine.settings.lora_dirs]
    panel_tab("LoRA", _TEMPLATE, "lora_cards.js", {"folders": folders})
