"""Regions of the finished picture that are made again at the full size: a list of passes (see detail_passes.js)."""

from __future__ import annotations

import json
from html import escape

import gradio as gr

from backend.engine.engine import Engine
from ui.scripts import mounts

_TEMPLATE = '<section class="em-passes" aria-label="Detail passes" data-detectors="{detectors}"></section>'


def detail_field(engine: Engine) -> gr.HTML:
    """Its value is a list of JSON values of `Detailer`."""
    detectors = json.dumps([[entry.name, entry.label] for entry in engine.catalog.detectors])
    return gr.HTML(
        value=[],
        label="Details",
        html_template=_TEMPLATE.format(detectors=_quoted(detectors)),
        js_on_load=mounts("detail_passes.js", "change"),
        apply_default_css=False,
    )


def _quoted(text: str) -> str:
    """For an attribute of a template, in which Gradio takes braces and dollars for code."""
    return "".join(f"&#{ord(letter)};" if letter in "{}$`" else letter for letter in escape(text))
