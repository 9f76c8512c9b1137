"""How a picture to begin with is used: how much of it changes, and how it comes to the size that is asked for."""

from __future__ import annotations

import gradio as gr

from backend.init_image import DEFAULT_STRENGTH, MAX_IMAGE_GUIDANCE, ResizeMode
from ui.binding import Fields
from ui.choices import Choices
from ui.components.number_field import number_field

_RESIZE = [
    ("Crop what hangs over", ResizeMode.CROP.value),
    ("Stretch", ResizeMode.STRETCH.value),
    ("Fill what is missing", ResizeMode.FILL.value),
    ("Stretch the latents", ResizeMode.LATENT.value),
]


def strength_field(form: str) -> Fields:
    return {
        "init.denoising_strength": number_field(
            "init.denoising_strength",
            "Denoising strength",
            form=form,
            minimum=0,
            maximum=1,
            step=0.01,
            slider=(0, 1),
            value=DEFAULT_STRENGTH,
            hint="0 keeps the picture, 1 keeps next to nothing of it.",
        ),
        "init.image_guidance": number_field(
            "init.image_guidance",
            "Image guidance",
            form=form,
            minimum=0,
            maximum=MAX_IMAGE_GUIDANCE,
            step=0.1,
            slider=(0, 5),
            value=1.5,
            only_with="editing",
            hint="How closely this model keeps to the picture.",
        ),
    }


def resize_fields(choices: dict[str, Choices]) -> Fields:
    with gr.Row():
        resize = gr.Dropdown(_RESIZE, value=ResizeMode.CROP.value, label="Resize", min_width=150)
        upscaler = gr.Dropdown(choices["init.upscaler"], value="", label="Enlarge with", min_width=150)
    return {"init.resize": resize, "init.upscaler": upscaler}


def noise_fields(form: str) -> Fields:
    """What few pictures need."""
    with gr.Row():
        multiplier = number_field(
            "init.noise_multiplier",
            "Noise multiplier",
            form=form,
            minimum=0,
            maximum=2,
            step=0.01,
            slider=(0.5, 1.5),
            value=1,
        )
        extra = number_field(
            "init.extra_noise", "Extra noise", form=form, minimum=0, maximum=1, step=0.01, slider=(0, 1), value=0
        )
    with gr.Row():
        exact_steps = gr.Checkbox(
            value=False,
            label="Exact steps",
            info="As many steps as asked for; else only the share that the strength leaves.",
            min_width=150,
        )
        color_correction = gr.Checkbox(
            value=False,
            label="Colour correction",
            info="Gives the result the colours of the picture.",
            min_width=150,
        )
    return {
        "init.noise_multiplier": multiplier,
        "init.extra_noise": extra,
        "init.exact_steps": exact_steps,
        "init.color_correction": color_correction,
    }
