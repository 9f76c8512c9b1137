"""How a mask is used: what the masked part begins with, and how its edge is treated."""

from __future__ import annotations

import gradio as gr

from backend.init_image import MAX_BLUR, MAX_PADDING, InpaintArea, MaskedContent
from ui.binding import Fields
from ui.components.number_field import number_field

_CONTENT = [
    ("The picture itself", MaskedContent.ORIGINAL.value),
    ("Colours from around", MaskedContent.FILL.value),
    ("Noise", MaskedContent.LATENT_NOISE.value),
    ("Nothing", MaskedContent.LATENT_NOTHING.value),
]
_AREAS = [
    ("The whole picture", InpaintArea.WHOLE.value),
    ("The mask's surroundings, at the full size", InpaintArea.MASKED.value),
]


def mask_fields(form: str) -> Fields:
    with gr.Row():
        content = gr.Dropdown(_CONTENT, value=MaskedContent.ORIGINAL.value, label="Masked content", min_width=150)
        area = gr.Dropdown(_AREAS, value=InpaintArea.WHOLE.value, label="Area", min_width=150)
    with gr.Row():
        blur = number_field(
            "init.mask.blur", "Mask blur", form=form, minimum=0, maximum=MAX_BLUR, step=1, slider=(0, 64), value=4
        )
        padding = number_field(
            "init.mask.padding",
            "Padding",
            form=form,
            minimum=0,
            maximum=MAX_PADDING,
            step=1,
            slider=(0, 256),
            value=32,
        )
    with gr.Row():
        inverted = gr.Checkbox(value=False, label="Invert", info="What is not painted changes.", min_width=150)
        soft = gr.Checkbox(
            value=False,
            label="Soft inpainting",
            info="Grey parts of the mask change less (differential diffusion).",
            min_width=150,
        )
    weight = number_field(
        "init.mask.conditioning_weight",
        "Conditioning weight",
        form=form,
        minimum=0,
        maximum=1,
        step=0.05,
        slider=(0, 1),
        value=1,
        only_with="inpainting",
        hint="How much of the masked part is hidden from this model: at 0 it sees the whole picture.",
        is_wide=True,
    )
    return {
        "init.mask.content": content,
        "init.mask.area": area,
        "init.mask.blur": blur,
        "init.mask.padding": padding,
        "init.mask.inverted": inverted,
        "init.mask.soft": soft,
        "init.mask.conditioning_weight": weight,
    }
