"""The page: a header and tabs, ours first and then those of extensions. It computes nothing."""

from __future__ import annotations

import gradio as gr

from backend.engine.engine import Engine
from backend.extensions.loaded import Extensions
from ui.components.header import header
from ui.tabs import extensions as extensions_tab
from ui.tabs import extras, img2img, inpaint, lora, memory, merge, plots, txt2img

TITLE = "Emulsion"


def build_page(engine: Engine, extensions: Extensions) -> gr.Blocks:
    """All tabs, connected to `engine`. A broken extension costs its own tab only."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        header(engine)
        with gr.Tabs(elem_id="em-tabs"):
            txt2img.build(engine)
            img2img.build(engine)
            inpaint.build(engine)
            extras.build()
            lora.build(engine)
            merge.build()
            plots.build()
            extensions_tab.build_extension_tabs(engine, extensions)
            memory.build()
            extensions_tab.build_list(extensions)
    for event in page.fns.values():
        # Programs use the documented HTTP interface. An extension that forgets to say so is no hole in it.
        event.api_visibility = "private"
    return page
