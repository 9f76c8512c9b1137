"""A second pass on the enlarged picture."""

from __future__ import annotations

import gradio as gr

from backend.limits import MAX_GUIDANCE, MAX_SIDE, MAX_STEPS, MIN_SIDE
from backend.second_pass import LARGEST_SCALE, HiresFix
from ui.binding import Fields
from ui.choices import Choices
from ui.components.number_field import number_field

_USUAL = HiresFix()
_LIKE_FIRST = "as first"


def hires_fields(form: str, choices: dict[str, Choices]) -> Fields:
    """choices: of the form; those of the second pass begin with "hires."."""
    is_on = gr.Checkbox(
        value=False,
        label="Hires fix",
        info="Makes the picture at its size, enlarges it and makes it again with details.",
        elem_classes=["em-switch"],
    )
    upscaler = gr.Dropdown(choices["hires.upscaler"], value=_USUAL.upscaler, label="Hires upscaler", min_width=160)
    with gr.Row():
        scale = number_field(
            "hires.scale",
            "Hires scale",
            form=form,
            minimum=1,
            maximum=LARGEST_SCALE,
            step=0.05,
            slider=(1, 4),
            value=_USUAL.scale,
        )
        strength = number_field(
            "hires.denoising_strength",
            "Hires strength",
            form=form,
            minimum=0,
            maximum=1,
            step=0.01,
            slider=(0, 1),
            value=_USUAL.denoising_strength,
        )
    with gr.Row(elem_classes=["em-even"]):
        width, height = (
            number_field(
                f"hires.{side}",
                f"Hires {side}",
                form=form,
                minimum=MIN_SIDE,
                maximum=MAX_SIDE,
                step=8,
                when_empty="by scale",
            )
            for side in ("width", "height")
        )
        steps = number_field(
            "hires.steps",
            "Hires steps",
            form=form,
            minimum=1,
            maximum=MAX_STEPS,
            step=1,
            when_empty=_LIKE_FIRST,
        )
        guidance_scale = number_field(
            "hires.guidance_scale",
            "Hires guidance",
            form=form,
            minimum=0,
            maximum=MAX_GUIDANCE,
            step=0.5,
            when_empty=_LIKE_FIRST,
        )
    with gr.Row():
        sampler = gr.Dropdown(choices["hires.sampler"], value="", label="Hires sampler", min_width=150)
        schedule = gr.Dropdown(choices["hires.schedule"], value="", label="Hires schedule", min_width=140)
    checkpoint = gr.Dropdown(choices["hires.checkpoint"], value="", label="Hires checkpoint", min_width=160)
    prompt, negative_prompt = (
        gr.Textbox(label=label, lines=2, max_lines=8, placeholder="As in the first pass")
        for label in ("Hires prompt", "Hires negative prompt")
    )
    return {
        "hires.is_on": is_on,
        "hires.upscaler": upscaler,
        "hires.scale": scale,
        "hires.denoising_strength": strength,
        "hires.width": width,
        "hires.height": height,
        "hires.steps": steps,
        "hires.guidance_scale": guidance_scale,
        "hires.sampler": sampler,
        "hires.schedule": schedule,
        "hires.checkpoint": checkpoint,
        "hires.prompt": prompt,
        "hires.negative_prompt": negative_prompt,
    }
