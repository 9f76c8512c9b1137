"""The form that makes pictures: one for each of txt2img, img2img and inpaint, which add what is theirs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import gradio as gr

from backend.engine.engine import Engine
from ui.binding import Fields, check_names
from ui.choices import Choices, choices_of, usual_checkpoint
from ui.components.adapters import adapter_fields
from ui.components.advanced_fields import advanced_fields
from ui.components.batch_fields import batch_fields
from ui.components.detail_fields import detail_field
from ui.components.fit_line import fit_line
from ui.components.form_bridge import form_bridge
from ui.components.hires_fields import hires_fields
from ui.components.job_bar import job_bar
from ui.components.model_picker import model_picker
from ui.components.prompt_box import prompt_box
from ui.components.refiner_fields import refiner_fields
from ui.components.results_panel import results_place
from ui.components.sampling_fields import sampling_fields
from ui.components.size_fields import size_fields
from ui.components.status_line import status_line
from ui.components.tile_fields import tile_fields
from ui.element_ids import form_id
from ui.form_events import Form, connect

PictureFields = Callable[[str, dict[str, Choices]], Fields]


def generation_form(engine: Engine, name: str, picture: PictureFields | None = None) -> None:
    """Lay a form out and connect it.

    name: of its tab. picture: makes the cards of the picture to begin with, below the prompts, out of the form's name
    and its lists.
    """
    choices = choices_of(engine, usual_checkpoint(engine))
    boxes: dict[str, gr.Accordion] = {}

    def box(label: str, used_by: str) -> AbstractContextManager[object]:
        """Cards that are closed until the field `used_by` is used."""
        boxes[used_by] = gr.Accordion(label, open=False, elem_classes=["em-card"])
        return boxes[used_by]

    classes = ["em-columns", *(["em-with-picture"] if picture else [])]
    with gr.Row(elem_id=form_id(name), elem_classes=classes):
        with gr.Column(elem_classes=["em-form"], scale=0):
            prompts = prompt_box(engine, name, is_short=picture is not None)
            pictures = picture(name, choices) if picture else {}
            with gr.Column(elem_classes=["em-card"]):
                model = model_picker(engine, choices)
            adapters = adapter_fields()
            with gr.Column(elem_classes=["em-card"]):
                sampling = sampling_fields(name, choices)
            with gr.Column(elem_classes=["em-card"]):
                size = size_fields(name, has_picture=picture is not None)
            with gr.Row(elem_classes=["em-card", "em-batch"]):
                batch = batch_fields(name)
            with box("Hires fix", "hires.is_on"):
                hires = hires_fields(name, choices)
            with box("Tiled diffusion", "tiles.is_on"):
                tiles = tile_fields(name, has_picture=picture is not None)
            with box("Details", "detailers"):
                detailers = detail_field(engine)
            with box("Refiner", "refiner"):
                refiner = refiner_fields(name, choices)
            with gr.Accordion("Advanced", open=False, elem_classes=["em-card"]):
                advanced = advanced_fields(engine, name, choices)
            with gr.Row(elem_classes=["em-go"]):
                fit_line()
                generate = gr.Button("Generate", variant="primary", elem_classes=["em-generate"], min_width=140)
                job_bar()
        with gr.Column(elem_classes=["em-side"], scale=1):
            status = status_line()
            results_place(name)
    fields: Fields = {
        **prompts._asdict(),
        **pictures,
        "checkpoint": model.checkpoint,
        "vae": model.vae,
        "text_encoders": model.text_encoders,
        "recipe": model.recipe,
        **adapters._asdict(),
        **refiner._asdict(),
        **sampling,
        **size._asdict(),
        **batch,
        **hires,
        **tiles,
        "detailers": detailers,
        **advanced,
    }
    check_names(fields)
    form = Form(
        name=name,
        fields=fields,
        model=model,
        boxes=boxes,
        generate=generate,
        bridge=form_bridge(name),
        status=status,
    )
    connect(engine, form)
