"""A number with a slider or with step buttons, which may be left empty to follow the model."""

from __future__ import annotations

from html import escape

import gradio as gr

from ui.element_ids import element_id
from ui.scripts import mounts

_RESET = '<button type="button" class="em-reset" hidden title="{title}" aria-label="{title}: {label}"></button>'
_NUMBER = (
    '<input id="{id}" type="number" inputmode="{mode}" autocomplete="off" '
    'min="{minimum:g}" max="{maximum:g}" step="{step}"{described}>'
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
    form: str = "",
    minimum: float,
    maximum: float,
    step: float,
    slider: tuple[float, float] | None = None,
    value: float | None = None,
    when_empty: str = "model",
    only_with: str = "",
    hint: str = "",
    is_wide: bool = False,
) -> gr.HTML:
    """A field whose value is a number, or None where the model decides.

    form: the one that the field is a part of.
    minimum, maximum: what may be typed; slider: the part of it that the slider covers, without which there are buttons.
    value: None makes a field that can be empty; it then shows what the model's default for `name` is.
    when_empty: what it shows in place of a default that the model does not have.
    only_with: what a model must have for the field to be there at all (see model_defaults.js).
    hint: a sentence below the field. is_wide: the field takes a line of its own.
    """
    field_id = element_id("field", form, name)
    title = "Back to the model's default" if when_empty == "model" else "Empty this field"
    reset = _RESET.format(title=escape(title), label=escape(label)) if value is None else ""
    number = _NUMBER.format(
        id=field_id,
        mode="decimal" if step < 1 else "numeric",
        minimum=minimum,
        maximum=maximum,
        step=f"{step:g}" if step >= 1 else "any",
        described=f' aria-describedby="{field_id}-hint"' if hint else "",
    )
    head = f'<label for="{field_id}">{escape(label)}</label>{reset}'
    if slider is None:
        body = f'<div class="em-field-head">{head}</div><div class="em-stepper">{_LESS}{number}{_MORE}</div>'
    else:
        body = (
            f'<div class="em-field-head">{head}{number}</div>{_SLIDER.format(low=slider[0], high=slider[1], step=step)}'
        )
    # The script reads these here and not in Gradio's props, which an update to a field in a closed accordion wipes out.
    usual = "" if value is None else value
    facts = (
        f'class="em-field{" em-wide" if is_wide else ""}" data-field="{name}" data-step="{step:g}" '
        f'data-usual="{usual}" data-when-empty="{escape(when_empty)}" data-only-with="{only_with}"'
    )
    if hint:
        body += f'<p class="em-hint" id="{field_id}-hint">{escape(hint)}</p>'
    return gr.HTML(
        value=value,
        label=label,
        html_template=f"<div {facts}>{body}</div>",
        js_on_load=mounts("number_field.js", "change"),
        apply_default_css=False,
        min_width=120,
    )
