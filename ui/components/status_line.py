"""One line that stays: what went wrong and what to do about it, or what else should be known."""

from __future__ import annotations

import secrets
from typing import Any, TypeAlias

import gradio as gr

from backend.errors import EmulsionError
from ui.scripts import mounts

Status: TypeAlias = dict[str, Any]

_TEMPLATE = """
<div class="em-status" hidden>
  <p class="em-status-text" role="alert"></p>
  <button type="button" class="em-icon em-close" aria-label="Close this message"></button>
</div>
"""


def status_line() -> gr.HTML:
    """The component; its value is what one of the functions below gives."""
    return gr.HTML(
        value=None,
        label="Message",
        html_template=_TEMPLATE,
        js_on_load=mounts("status_line.js"),
        apply_default_css=False,
        elem_classes=["em-status-block"],
    )


def problem(error: EmulsionError) -> Status:
    return _status("problem", str(error))


def notice(texts: list[str]) -> Status:
    return _status("notice", "\n".join(texts))


def toast(text: str) -> Status:
    """Something that went as it should: it is told and goes away."""
    return _status("toast", text)


def queued(job_id: str) -> Status:
    """Nothing to tell; the page turns to the job."""
    return _status("queued", "", job=job_id)


def _status(kind: str, text: str, **more: str) -> Status:
    # The same message twice in a row is told twice.
    return {"kind": kind, "text": text, "stamp": secrets.token_hex(4), **more}
