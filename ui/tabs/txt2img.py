"""Text to image: the form on the left, pictures on the right."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr
from gradio.blocks import Block

from backend.engine.engine import Engine
from backend.errors import EmulsionError
from backend.request import MAX_GUIDANCE, MAX_IMAGES, MAX_SHIFT, MAX_STEPS, MIN_SHIFT
from ui.adapter_rows import kept_hashes, kept_rows
from ui.binding import Fields, Values, by_name, check_names, request_of, shown, updates
from ui.choices import Choices, choices_of, prediction_of, usual_checkpoint
from ui.components.adapters import adapter_fields
from ui.components.fit_line import fit_line
from ui.components.form_bridge import form_bridge
from ui.components.job_bar import job_bar
from ui.components.model_card import card_of
from ui.components.model_picker import ModelPicker, model_picker
from ui.components.number_field import number_field
from ui.components.prompt_box import prompt_box
from ui.components.refiner_fields import refiner_fields
from ui.components.results_panel import results_panel
from ui.components.seed_field import seed_field
from ui.components.size_fields import size_fields
from ui.components.status_line import Status, notice, problem, queued, status_line, toast
from ui.restore import restore
from ui.scripts import calls

Updates = dict[Block, Any]

# Events answer at once, whatever is running. They are no part of a public interface: that one is documented HTTP.
# Values come as they are: GenerationRequest checks them, and says more than Gradio would.
_QUICK: dict[str, Any] = {
    "api_visibility": "private",
    "queue": False,
    "show_progress": "hidden",
    "preprocess": False,
}
_STRUCTURED = frozenset({"text_encoders", "adapters", "name_hashes"})  # fields whose values are no plain ones


class _Form(NamedTuple):
    """The parts of the tab that events need."""

    fields: Fields
    model: ModelPicker
    refiner: gr.Accordion
    generate: gr.Button
    bridge: gr.HTML
    status: gr.HTML


def build(engine: Engine) -> None:
    """Lay the tab out and connect it."""
    choices = choices_of(engine, usual_checkpoint(engine))
    with gr.Row(elem_classes=["em-columns"]):
        with gr.Column(elem_classes=["em-form"], scale=0):
            prompts = prompt_box(engine)
            with gr.Column(elem_classes=["em-card"]):
                model = model_picker(engine, choices)
            adapters = adapter_fields()
            with gr.Column(elem_classes=["em-card"]):
                sampling = _sampling(choices)
            with gr.Column(elem_classes=["em-card"]):
                size = size_fields()
            with gr.Row(elem_classes=["em-card", "em-batch"]):
                batch = _batch()
            with gr.Accordion("Refiner", open=False, elem_classes=["em-card"]) as refiner_box:
                refiner = refiner_fields(choices)
            with gr.Accordion("Advanced", open=False, elem_classes=["em-card"]):
                advanced = _advanced(engine, choices)
            with gr.Row(elem_classes=["em-go"]):
                fit_line()
                generate = gr.Button("Generate", variant="primary", elem_classes=["em-generate"], min_width=140)
                job_bar()
        with gr.Column(elem_classes=["em-side"], scale=1):
            status = status_line()
            results_panel()
    fields = {
        **prompts._asdict(),
        "checkpoint": model.checkpoint,
        "vae": model.vae,
        "text_encoders": model.text_encoders,
        "recipe": model.recipe,
        **adapters._asdict(),
        **refiner._asdict(),
        **sampling,
        **size._asdict(),
        **batch,
        **advanced,
    }
    check_names(fields)
    form = _Form(fields, model, refiner_box, generate, form_bridge(), status)
    _connect_model(engine, form)
    _connect_generate(engine, form)
    _connect_restoring(engine, form)


def _sampling(choices: dict[str, Choices]) -> Fields:
    with gr.Row():
        sampler = gr.Dropdown(choices["sampler"], value="", label="Sampler", min_width=160)
        schedule = gr.Dropdown(choices["schedule"], value="", label="Schedule", min_width=140)
    with gr.Row():
        steps = number_field("steps", "Steps", minimum=1, maximum=MAX_STEPS, step=1, slider=(1, 100))
        guidance_scale = number_field(
            "guidance_scale", "Guidance", minimum=0, maximum=MAX_GUIDANCE, step=0.5, slider=(1, 20)
        )
        distilled_guidance = number_field(
            "distilled_guidance",
            "Distilled guidance",
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


def _batch() -> Fields:
    return {
        "seed": seed_field(),
        "batch_size": number_field("batch_size", "Batch size", minimum=1, maximum=MAX_IMAGES, step=1, value=1),
        "batch_count": number_field("batch_count", "Batch count", minimum=1, maximum=MAX_IMAGES, step=1, value=1),
    }


def _advanced(engine: Engine, choices: dict[str, Choices]) -> Fields:
    usual = engine.preferences
    with gr.Row(elem_classes=["em-even"]):
        emphasis = gr.Dropdown(choices["emphasis"], value=usual.emphasis, label="Emphasis", min_width=120)
        noise_source = gr.Dropdown(
            choices["noise_source"], value=usual.noise_source, label="Noise source", min_width=120
        )
        clip_skip = number_field("clip_skip", "CLIP skip", minimum=1, maximum=12, step=1)
    with gr.Row():
        guidance_rescale = number_field(
            "guidance_rescale",
            "Guidance rescale",
            minimum=0,
            maximum=1,
            step=0.05,
            slider=(0, 1),
            hint="Takes back the contrast that strong guidance adds.",
        )
        shift = number_field(
            "shift",
            "Shift",
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


def _connect_generate(engine: Engine, form: _Form) -> None:
    def generate(values: Values) -> Status:
        """Put a job into the queue; the results panel shows what becomes of it."""
        try:
            return queued(engine.submit(request_of(by_name(form.fields, values))))
        except EmulsionError as error:
            return problem(error)

    # A set of inputs arrives as a dict: by component, not by position.
    form.generate.click(generate, set(form.fields.values()), form.status, trigger_mode="multiple", **_QUICK)


def _connect_model(engine: Engine, form: _Form) -> None:
    checkpoint, refresh, card, vae, text_encoders, recipe = form.model
    sampler, refiner, prediction = (form.fields[name] for name in ("sampler", "refiner", "prediction"))

    def describe(name: str | None, predicted: str | None) -> Updates:
        """Show the checkpoint's facts and defaults."""
        chosen = str(name or "")
        choices = choices_of(engine, chosen, predicted or "")
        return {
            card: card_of(engine, chosen, prediction_of(predicted)),
            sampler: gr.update(choices=choices["sampler"]),
            prediction: gr.update(choices=choices["prediction"]),
        }

    def look_again(name: str | None, predicted: str | None) -> Updates:
        """Read the folders of models again. A checkpoint that is gone is replaced by the usual one."""
        engine.library.refresh()
        choices = choices_of(engine, str(name or ""), predicted or "")
        chosen = _one_of(choices["checkpoint"], name) or usual_checkpoint(engine) or None
        return {
            checkpoint: gr.update(choices=choices["checkpoint"], value=chosen),
            vae: gr.update(choices=choices["vae"]),
            text_encoders: gr.update(choices=choices["text_encoders"]),
            refiner: gr.update(choices=choices["refiner"]),
            card: card_of(engine, chosen or "", prediction_of(predicted)),
            form.status: toast(f"{_count(choices['checkpoint'], 'checkpoint')} found."),
        }

    described = [card, sampler, prediction]
    gr.on([checkpoint.change, prediction.input], describe, [checkpoint, prediction], described, **_QUICK)
    checkpoint.input(lambda: "", None, recipe, **_QUICK)  # whoever chooses a checkpoint wants that one
    refreshed = [checkpoint, vae, text_encoders, refiner, card, form.status]
    refresh.click(look_again, [checkpoint, prediction], refreshed, **_QUICK)


def _connect_restoring(engine: Engine, form: _Form) -> None:
    fields, status = form.fields, form.status

    def opened(event: gr.EventData) -> Updates:
        """Bring the form back as it was left in this browser, with the lists as they are now."""
        kept = _kept_values(event.values)
        usual = {name: field.value for name, field in fields.items()}
        usual["checkpoint"] = usual_checkpoint(engine) or None
        lists = choices_of(engine, "")
        checkpoint = _one_of(lists["checkpoint"], kept.get("checkpoint")) or usual["checkpoint"]
        predicted = str(kept.get("prediction") or "")
        lists = choices_of(engine, checkpoint or "", predicted)
        kept["adapters"] = kept_rows(kept.get("adapters"))
        kept["name_hashes"] = kept_hashes(kept.get("name_hashes"))
        kept["text_encoders"] = _some_of(lists["text_encoders"], kept.get("text_encoders"))
        for name, choices in lists.items():
            if name != "text_encoders":
                kept[name] = _one_of(choices, kept.get(name, usual[name]), otherwise=usual[name])
        has_refiner = bool(kept["refiner"])
        chosen = {fields[name]: gr.update(choices=choices, value=kept.pop(name)) for name, choices in lists.items()}
        return {
            **chosen,
            **updates(fields, kept),
            form.refiner: gr.update(open=has_refiner),
            form.model.card: card_of(engine, checkpoint or "", prediction_of(predicted)),
            form.bridge: "opened",
        }

    def pasted(event: gr.EventData) -> Updates:
        """Fill the form from an infotext; what it does not speak of stays."""
        restored = restore(engine, str(event.text))
        told = notice(restored.notices) if restored.notices else toast("Settings filled in.")
        # What works on the picture is not left behind a closed lid.
        opened_box = {form.refiner: gr.update(open=True)} if restored.values.get("refiner") else {}
        return {**updates(fields, shown(restored.values)), **opened_box, status: told}

    form.bridge.opened(opened, None, [*fields.values(), form.refiner, form.model.card, form.bridge], **_QUICK)
    form.bridge.pasted(pasted, None, [*fields.values(), form.refiner, status], **_QUICK)
    gr.on(
        [field.change for field in fields.values()],
        None,
        list(fields.values()),
        js=calls("form.js", "keep", list(fields)),
        **_QUICK,
    )


def _kept_values(values: object) -> dict[str, Any]:
    """What the browser kept, as far as it could have come from a form."""
    if not isinstance(values, dict):
        return {}
    return {
        str(name): value
        for name, value in values.items()
        if value is None or isinstance(value, str | int | float) or name in _STRUCTURED
    }


def _one_of(choices: Choices, value: object, otherwise: str | None = None) -> str | None:
    """`value` if it can be chosen."""
    return next((choice for _, choice in choices if choice == value), otherwise)


def _some_of(choices: Choices, values: object) -> list[str]:
    """Those of `values` that can be chosen."""
    wanted = values if isinstance(values, list) else []
    return [choice for _, choice in choices if choice in wanted]


def _count(things: list[Any], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"
