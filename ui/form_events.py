"""What the events of a form do: describe the model, queue a job, bring back what was kept, fill in what was pasted."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import gradio as gr
from gradio.blocks import Block

from backend.engine.engine import Engine
from backend.errors import EmulsionError
from backend.init_image import InitImage
from ui.adapter_rows import kept_hashes, kept_rows
from ui.binding import PICTURE, Fields, Values, by_name, request_of, shown, updates
from ui.choices import Choices, choices_of, prediction_of, usual_checkpoint
from ui.components.model_card import card_of
from ui.components.model_picker import ModelPicker
from ui.components.status_line import Status, notice, problem, queued, toast
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
_STRUCTURED = frozenset({"text_encoders", "adapters", "name_hashes", "detailers"})  # values are no plain ones


@dataclass(frozen=True, kw_only=True)
class Form:
    """The parts of a form that events need.

    name: of its tab. boxes: those that are closed until the field that they are called by is used.
    """

    name: str
    fields: Fields
    model: ModelPicker
    boxes: Mapping[str, gr.Accordion]
    generate: gr.Button
    bridge: gr.HTML
    status: gr.HTML


def connect(engine: Engine, form: Form) -> None:
    _connect_model(engine, form)
    _connect_generate(engine, form)
    _connect_opening(engine, form)
    _connect_filling(engine, form)


def tab_of(init: InitImage | None, otherwise: str) -> str:
    """The tab whose form a request belongs to; one without a picture fits into each of them."""
    if init is None:
        return otherwise
    return "inpaint" if init.mask or init.borders else "img2img"


def _connect_generate(engine: Engine, form: Form) -> None:
    def generate(values: Values) -> Status:
        """Put a job into the queue; the results panel shows what becomes of it."""
        try:
            return queued(engine.submit(request_of(by_name(form.fields, values))))
        except EmulsionError as error:
            return problem(error)

    # A set of inputs arrives as a dict: by component, not by position.
    form.generate.click(generate, set(form.fields.values()), form.status, trigger_mode="multiple", **_QUICK)


def _connect_model(engine: Engine, form: Form) -> None:
    checkpoint, refresh, card, vae, text_encoders, recipe = form.model
    sampler, prediction = (form.fields[name] for name in ("sampler", "prediction"))
    followed = {name: form.fields[name] for name in ("refiner", "hires.checkpoint", "hires.upscaler", "init.upscaler")
                if name in form.fields}  # fmt: skip

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
        engine.upscalers.refresh()
        choices = choices_of(engine, str(name or ""), predicted or "")
        chosen = _one_of(choices["checkpoint"], name) or usual_checkpoint(engine) or None
        return {
            checkpoint: gr.update(choices=choices["checkpoint"], value=chosen),
            vae: gr.update(choices=choices["vae"]),
            text_encoders: gr.update(choices=choices["text_encoders"]),
            **{field: gr.update(choices=choices[name]) for name, field in followed.items()},
            card: card_of(engine, chosen or "", prediction_of(predicted)),
            form.status: toast(f"{_count(choices['checkpoint'], 'checkpoint')} found."),
        }

    described = [card, sampler, prediction]
    gr.on([checkpoint.change, prediction.input], describe, [checkpoint, prediction], described, **_QUICK)
    checkpoint.input(lambda: "", None, recipe, **_QUICK)  # whoever chooses a checkpoint wants that one
    refreshed = [checkpoint, vae, text_encoders, *followed.values(), card, form.status]
    refresh.click(look_again, [checkpoint, prediction], refreshed, **_QUICK)


def _connect_opening(engine: Engine, form: Form) -> None:
    fields = form.fields

    def opened(event: gr.EventData) -> Updates:
        """Bring the form back as it was left in this browser, with the lists as they are now."""
        kept = _kept_values(event.values)
        usual = {name: field.value for name, field in fields.items()}
        usual["checkpoint"] = usual_checkpoint(engine) or None
        lists = _lists_of(engine, fields, "", "")
        checkpoint = _one_of(lists["checkpoint"], kept.get("checkpoint")) or usual["checkpoint"]
        predicted = str(kept.get("prediction") or "")
        lists = _lists_of(engine, fields, checkpoint or "", predicted)
        kept["adapters"] = kept_rows(kept.get("adapters"))
        kept["name_hashes"] = kept_hashes(kept.get("name_hashes"))
        kept["detailers"] = _kept_detailers(kept.get("detailers"))
        kept.pop(PICTURE, None)  # the canvas keeps itself
        kept["text_encoders"] = _some_of(lists["text_encoders"], kept.get("text_encoders"))
        for name, choices in lists.items():
            if name != "text_encoders":
                kept[name] = _one_of(choices, kept.get(name, usual[name]), otherwise=usual[name])
        open_boxes = _boxes_open(form, kept)
        chosen = {fields[name]: gr.update(choices=choices, value=kept.pop(name)) for name, choices in lists.items()}
        return {
            **chosen,
            **updates(fields, kept),
            **open_boxes,
            form.model.card: card_of(engine, checkpoint or "", prediction_of(predicted)),
            form.bridge: {"state": "open"},
        }

    outputs = [*fields.values(), *form.boxes.values(), form.model.card, form.bridge]
    form.bridge.opened(opened, None, outputs, **_QUICK)
    gr.on(
        [field.change for field in fields.values()],
        None,
        list(fields.values()),
        js=calls("form.js", "keep", form.name, list(fields)),
        **_QUICK,
    )


def _connect_filling(engine: Engine, form: Form) -> None:
    fields, status = form.fields, form.status

    def pasted(event: gr.EventData) -> Updates:
        """Fill the form from an infotext; what it does not speak of stays. Another tab's text goes to that tab."""
        text = str(event.text)
        restored = restore(engine, text)
        tab = tab_of(restored.values.get("init"), form.name)
        if tab != form.name:
            return {form.bridge: {"turn_to": tab, "text": text, "stamp": secrets.token_hex(4)}}
        told = notice(restored.notices) if restored.notices else toast("Settings filled in.")
        values = shown(restored.values)
        # What works on the picture is not left behind a closed lid.
        opened_boxes = {box: state for box, state in _boxes_open(form, values).items() if state["open"]}
        return {**updates(fields, values), **opened_boxes, status: told}

    outputs = [*fields.values(), *form.boxes.values(), status, form.bridge]
    form.bridge.pasted(pasted, None, outputs, **_QUICK)


def _lists_of(engine: Engine, fields: Fields, checkpoint: str, prediction: str) -> dict[str, Choices]:
    lists = choices_of(engine, checkpoint, prediction)
    return {name: choices for name, choices in lists.items() if name in fields}


def _boxes_open(form: Form, values: Mapping[str, Any]) -> dict[Block, Any]:
    """Whether each box is open: when the field that it is called by is used."""
    return {box: gr.update(open=bool(values.get(name))) for name, box in form.boxes.items()}


def _kept_values(values: object) -> dict[str, Any]:
    """What the browser kept, as far as it could have come from a form."""
    if not isinstance(values, dict):
        return {}
    return {
        str(name): value
        for name, value in cast("dict[str, Any]", values).items()
        if value is None or isinstance(value, str | int | float) or name in _STRUCTURED
    }


def _kept_detailers(value: object) -> list[dict[str, Any]]:
    """Passes as far as they could have come from a form; what is wrong inside of one is told when it is used."""
    passes = cast("list[Any]", value) if isinstance(value, list) else []
    return [one for one in passes if isinstance(one, dict)]


def _one_of(choices: Choices, value: object, otherwise: str | None = None) -> str | None:
    """`value` if it can be chosen."""
    return next((choice for _, choice in choices if choice == value), otherwise)


def _some_of(choices: Choices, values: object) -> list[str]:
    """Those of `values` that can be chosen."""
    wanted = cast("list[Any]", values) if isinstance(values, list) else []
    return [choice for _, choice in choices if choice in wanted]


def _count(things: list[Any], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"
