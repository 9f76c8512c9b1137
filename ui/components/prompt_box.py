"""Prompt and negative prompt, each with a count of its tokens."""

from __future__ import annotations

from typing import NamedTuple

import gradio as gr

from backend.engine.engine import Engine
from backend.field_checks import MAX_PROMPT_BYTES
from ui.element_ids import element_id
from ui.scripts import calls, mounts

_COUNTER = '<output class="em-tokens" aria-label="{label}: tokens"></output>'


class PromptFields(NamedTuple):
    prompt: gr.Textbox
    negative_prompt: gr.Textbox


def prompt_box(engine: Engine, form: str, *, is_short: bool = False) -> PromptFields:
    """Both prompts. A picture or an infotext that is dropped on the first, or pasted, fills the form.

    is_short: where something else needs the room.
    """

    def count_tokens(text: object) -> list[int]:
        """Tokens in a text, and how many fit into the chunks that they need."""
        count = engine.count_tokens(str(text)[:MAX_PROMPT_BYTES])
        return [count.tokens, count.limit]

    def box(name: str, label: str, lines: int, placeholder: str) -> gr.Textbox:
        with gr.Column(elem_classes=["em-prompt-box"], elem_id=element_id("box", form, name), min_width=120):
            text = gr.Textbox(
                label=label,
                lines=lines,
                max_lines=12,
                placeholder=placeholder,
                elem_classes=["em-prompt"],
                html_attributes=gr.InputHTMLAttributes(spellcheck=True, autocapitalize="off"),
            )
            counter = gr.HTML(
                value="",
                label=f"{label}: tokens",
                html_template=_COUNTER.format(label=label),
                js_on_load=mounts("token_counter.js"),
                apply_default_css=False,
                server_functions=[count_tokens],
            )
        text.change(None, text, counter, js=calls("token_counter.js", "same"), api_visibility="private", queue=False)
        return text

    return PromptFields(
        prompt=box(
            "prompt",
            "Prompt",
            2 if is_short else 4,
            "What should the picture show? Drop a picture here to use its settings.",
        ),
        negative_prompt=box("negative_prompt", "Negative prompt", 1 if is_short else 2, "What should it not show?"),
    )
