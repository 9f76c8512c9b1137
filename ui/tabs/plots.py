"""Plots: many pictures from one form, along axes, as a prompt matrix, or from lines of prompts."""

from __future__ import annotations

from ui.components.panel_tab import panel_tab

_TEMPLATE = """
<section class="em-merge em-plotting" aria-label="Plots">
  <div class="em-status" data-part="line" hidden>
    <p class="em-status-text" role="alert"></p>
    <button type="button" class="em-icon em-close" aria-label="Close this message"></button>
  </div>
  <div class="em-merge-column">
    <div class="em-panel">
      <div class="em-panel-head"><h2>What is made</h2></div>
      <label class="em-field em-labelled"><span class="em-label">With the settings of</span>
        <select class="em-select" data-part="base">
          <option value="txt2img">txt2img</option>
          <option value="img2img">img2img</option>
          <option value="inpaint">inpaint</option>
        </select></label>
      <label class="em-field em-labelled"><span class="em-label">Pictures for</span>
        <select class="em-select" data-part="way">
          <option value="axes">values along axes (X/Y/Z plot)</option>
          <option value="matrix">parts of the prompt (prompt matrix)</option>
          <option value="lines">lines of prompts</option>
        </select></label>
      <div class="em-numbers-list" data-way="axes">
        <div class="em-numbers-list" data-part="axes"></div>
        <div class="em-actions"><button type="button" class="em-action" data-part="swap">Swap X and Y</button>
          <button type="button" class="em-action" data-part="add">Add an axis</button></div>
      </div>
      <div class="em-numbers-list" data-way="matrix" hidden>
        <p class="em-hint">Every combination of what stands behind the first | is made: "a cat|in snow|at night"
          comes to four pictures.</p>
        <label class="em-field em-labelled"><span class="em-label">Parts of</span>
          <select class="em-select" data-part="matrix">
            <option value="prompt">the prompt</option>
            <option value="negative_prompt">the negative prompt</option>
          </select></label>
      </div>
      <div class="em-numbers-list" data-way="lines" hidden>
        <label class="em-field em-labelled"><span class="em-label">Lines</span>
          <textarea rows="7" data-part="lines" spellcheck="false"
            placeholder='a red house&#10;--prompt "a dog" --seed 5 --steps 30'></textarea>
          <span class="em-hint">Each line is a prompt, or flags: --prompt, --negative_prompt, --seed, --steps,
            --cfg_scale, --width, --height, --sampler_name ...</span></label>
        <label class="em-field em-labelled"><span class="em-label">From a file</span>
          <input type="file" accept=".txt,text/plain" data-part="file"></label>
      </div>
      <label class="em-field em-labelled" data-way="matrix lines" hidden>
        <span class="em-label">Words of the prompt go</span>
        <select class="em-select" data-part="at">
          <option value="">in its place, or behind it</option>
          <option value="start">to its start</option>
          <option value="end">to its end</option>
        </select></label>
      <label class="em-check"><input type="checkbox" data-part="seeds"> Each picture has the next seed</label>
      <div class="em-numbers-list" data-part="loop" hidden>
        <label class="em-check"><input type="checkbox" data-part="loops"> Loopback: go on with each result</label>
        <div class="em-numbers-list" data-part="loop-fields" hidden>
          <label class="em-field em-labelled"><span class="em-label">Rounds</span>
            <input type="number" min="1" max="256" step="1" value="4" data-part="rounds"></label>
          <label class="em-field em-labelled"><span class="em-label">Denoising strength of the last round</span>
            <input type="number" min="0" max="1" step="0.05" placeholder="the same in all" data-part="final"></label>
          <label class="em-field em-labelled"><span class="em-label">Strength goes there</span>
            <select class="em-select" data-part="curve">
              <option value="linear">evenly</option>
              <option value="aggressive">fast at first (aggressive)</option>
              <option value="lazy">slowly at first (lazy)</option>
            </select></label>
        </div>
      </div>
      <p data-part="count" role="status"></p>
      <div class="em-actions">
        <button type="button" class="em-action em-strong" data-part="start">Start</button>
      </div>
    </div>
  </div>
  <div class="em-merge-column">
    <div class="em-panel">
      <div class="em-panel-head"><h2>Boards</h2></div>
      <p class="em-quiet" data-part="none">None yet. A board goes on after a reload and after a restart.</p>
      <div class="em-plots" data-part="boards"></div>
    </div>
  </div>
</section>
"""


def build() -> None:
    """The tab. It talks to /api/v1 by itself and asks nothing of Gradio."""
    panel_tab("Plots", _TEMPLATE, "plots_panel.js")
