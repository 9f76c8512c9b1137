"""A number with a slider or with step buttons, which may be left empty to follow the model."""

from __future__ import annotations

from html import escape

import gradio as gr

from ui.scripts import mounts

_RESET = (
    '<button type="button" class="em-reset" hidden title="Back to the model\'s default" '
    'aria-label="Back to the model\'s default: {label}"></button>'
)
_NUMBER = (
    '<input id="{id}" type="number" inputmode="{mode}" autocomplete="off" '
    'min="{minimum:g}" max="{maximum:g}" step="{step}">'
)
# These say the same as the number and are for the mouse alone.
_SLIDER = (
    '<input class="em-slider" type="range" tabindex="-1" aria-hidden="true" '
    'min="{low:g}" max="{high:g}" step="{step:g}">'
)
_LESS = '<button type="button" class="em-step" data-by="-1" tabindex="-1" aria-hidden="true">&minus;</button>'
_MORE = '<button type="button" class="em-step" data-by="1" tabindex="-1" aria-hidden="true">+</button>'


def number_field(
    name: str,
    label: str,
    *,
    minimum: float,
    maximum: float,
    step: float,
    slider: tuple[float, float] | None = None,
    value: float | None = None,
) -> gr.HTML:
    """A field whose value is a number, or None where the model decides.

    minimum, maximum: what may be typed; slider: the part of it that the slider covers, without which there are buttons.
    value: None makes a field that can be empty; it then shows what the model's default for `name` is.
    """
    field_id = f"field-{name.replace('_', '-')}"
    reset = _RESET.format(label=escape(label)) if value is None else ""
    number = _NUMBER.format(
        id=field_id,
        mode="decimal" if step < 1 else "numeric",
        minimum=minimum,
        maximum=maximum,
        step=f"{step:g}" if step >= 1 else "any",
    )
    head = f'<label for="{field_id}">{escape(label)}</label>{reset}'
    if slider is None:
        body = f'<div class="em-field-head">{head}</div><div class="em-stepper">{_LESS}{number}{_MORE}</div>'
    else:
        body = (
            f'<div class="em-field-head">{head}{number}</div>{_SLIDER.format(low=slider[0], high=slider[1], step=step)}'
        )
    # The script reads these here and not in Gradio's props, which an update to a field in a closed accordion wipes out.
    facts = f'class="em-field" data-field="{name}" data-step="{step:g}" data-usual="{"" if value is None else value}"'
    return gr.HTML(
        value=value,
        label=label,
        html_template=f"<div {facts}>{body}</div>",
        js_on_load=mounts("number_field.js", "change"),
        apply_default_css=False,
        min_width=120,
    )
