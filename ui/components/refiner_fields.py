"""A second checkpoint that finishes the picture, and when it takes over."""

from __future__ import annotations

from typing import NamedTuple

import gradio as gr

from backend.request import DEFAULT_REFINER_SWITCH
from ui.choices import Choices
from ui.components.number_field import number_field


class RefinerFields(NamedTuple):
    refiner: gr.Dropdown
    refiner_switch: gr.HTML
    refiner_switch_timestep: gr.HTML


def refiner_fields(form: str, choices: dict[str, Choices]) -> RefinerFields:
    refiner = gr.Dropdown(choices["refiner"], value="", label="Refiner checkpoint", min_width=160)
    with gr.Row():
        switch = number_field(
            "refiner_switch",
            "Switch at",
            form=form,
            minimum=0,
            maximum=1,
            step=0.05,
            slider=(0, 1),
            value=DEFAULT_REFINER_SWITCH,
            hint="The share of the steps after which the refiner takes over.",
        )
        timestep = number_field(
            "refiner_switch_timestep",
            "Switch timestep",
            form=form,
            minimum=0,
            maximum=999,
            step=1,
            when_empty="not used",
            hint="Counts in place of the share: the refiner takes over below it.",
        )
    return RefinerFields(refiner, switch, timestep)
