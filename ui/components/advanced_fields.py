"""What few pictures need: emphasis, noise source, shift, prediction, and the like."""

from __future__ import annotations

import gradio as gr

from backend.engine.engine import Engine
from backend.request import MAX_SHIFT, MIN_SHIFT
from ui.binding import Fields
from ui.choices import Choices
from ui.components.number_field import number_field


def advanced_fields(engine: Engine, form: str, choices: dict[str, Choices]) -> Fields:
    usual = engine.preferences
    with gr.Row(elem_classes=["em-even"]):
        emphasis = gr.Dropdown(choices["emphasis"], value=usual.emphasis, label="Emphasis", min_width=120)
        noise_source = gr.Dropdown(
            choices["noise_source"], value=usual.noise_source, label="Noise source", min_width=120
        )
        clip_skip = number_field("clip_skip", "CLIP skip", form=form, minimum=1, maximum=12, step=1)
    with gr.Row():
        guidance_rescale = number_field(
            "guidance_rescale",
            "Guidance rescale",
            form=form,
            minimum=0,
            maximum=1,
            step=0.05,
            slider=(0, 1),
            hint="Takes back the contrast that strong guidance adds.",
        )
        shift = number_field(
            "shift",
            "Shift",
            form=form,
            minimum=MIN_SHIFT,
            maximum=MAX_SHIFT,
            step=0.1,
            slider=(0.5, 12),
            only_with="shift",
            hint="Above 1 more of the steps go to the large shapes.",
        )
    prediction = gr.Dropdown(
        choices["prediction"],
        value="",
        label="Prediction",
        info="What an SD 1.x, 2.x or SDXL network predicts, for files that do not say it.",
        min_width=160,
    )
    with gr.Row():
        exact_batches = gr.Checkbox(
            value=usual.exact_batches,
            label="Exact batches",
            info="Each picture of a batch has the same bytes as when it is made alone. Slower.",
            min_width=150,
        )
        use_ema = gr.Checkbox(
            value=False,
            label="Averaged weights",
            info="The EMA weights of a checkpoint that holds both kinds.",
            min_width=150,
        )
    return {
        "emphasis": emphasis,
        "noise_source": noise_source,
        "clip_skip": clip_skip,
        "guidance_rescale": guidance_rescale,
        "shift": shift,
        "prediction": prediction,
        "exact_batches": exact_batches,
        "use_ema": use_ema,
    }
