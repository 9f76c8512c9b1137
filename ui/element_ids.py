"""How elements of the page are called, of which each form has one."""

from __future__ import annotations

FIRST_FORM = "txt2img"  # its elements are called without its name


def element_id(kind: str, form: str, name: str) -> str:
    """Such as "field-steps", "field-img2img-steps"."""
    parts = [kind, *([] if form in ("", FIRST_FORM) else [form]), name]
    return "-".join(parts).replace("_", "-").replace(".", "-")


def form_id(form: str) -> str:
    """Of the element around a whole form; scripts find by it which form they are in (see assets/form.js)."""
    return f"em-form-{form}"
