"""How the noise is taken away: sampler, schedule, steps and guidance."""

from __future__ import annotations

import gradio as gr

from backend.limits import MAX_GUIDANCE, MAX_STEPS
from ui.binding import Fields
from ui.choices import Choices
from ui.components.number_field import number_field


def sampling_fields(form: str, choices: dict[str, Choices]) -> Fields:
    with gr.Row():
        sampler = gr.Dropdown(choices["sampler"], value="", label="Sampler", min_width=160)
        schedule = gr.Dropdown(choices["schedule"], value="", label="Schedule", min_width=140)
    with gr.Row():
        steps = number_field("steps", "Steps", form=form, minimum=1, maximum=MAX_STEPS, step=1, slider=(1, 100))
        guidance_scale = number_field(
            "guidance_scale", "Guidance", form=form, minimum=0, maximum=MAX_GUIDANCE, step=0.5, slider=(1, 20)
        )
        distilled_guidance = number_field(
            "distilled_guidance",
            "Distilled guidance",
            form=form,
            minimum=0,
            maximum=MAX_GUIDANCE,
            step=0.1,
            slider=(1, 10),
            only_with="distilled_guidance",
            is_wide=True,
        )
    return {
        "sampler": sampler,
        "schedule": schedule,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "distilled_guidance": distilled_guidance,
    }
