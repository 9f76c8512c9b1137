"""The page without a browser: what it is made of, what its handlers answer, and which doors are shut."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from starlette.testclient import TestClient

from backend.engine.engine import Engine
from backend.engine.job import JobState
from backend.engine.settings import Settings
from backend.extensions.loaded import Extensions
from backend.extensions.loader import load_extensions
from backend.http.security import Security
from backend.http.server import build_app
from backend.nn.flux import Flux, FluxConfig
from backend.request import GenerationRequest, PredictionKind
from backend.weights.safetensors_file import write_safetensors
from tests.extension_samples import write_extension
from tests.http_server import client_of
from tests.tiny_checkpoint import write_t5_header, write_tiny_checkpoint
from ui.environment import prepare_environment
from ui.mount import mount_page
from ui.page import build_page
from ui.restore import restore
from ui.scripts import ASSETS_FOLDER, ASSETS_URL, mounts, style_sheet

LABELS = {
    "prompt": "Prompt",
    "negative_prompt": "Negative prompt",
    "checkpoint": "Checkpoint",
    "vae": "VAE",
    "text_encoders": "Text encoders",
    "recipe": "Recipe",
    "adapters": "LoRAs",
    "skips_missing_adapters": "Go on without missing LoRAs",
    "name_hashes": "Files of names",
    "refiner": "Refiner checkpoint",
    "refiner_switch": "Switch at",
    "refiner_switch_timestep": "Switch timestep",
    "sampler": "Sampler",
    "schedule": "Schedule",
    "steps": "Steps",
    "guidance_scale": "Guidance",
    "distilled_guidance": "Distilled guidance",
    "guidance_rescale": "Guidance rescale",
    "prediction": "Prediction",
    "shift": "Shift",
    "width": "Width",
    "height": "Height",
    "seed": "Seed",
    "batch_size": "Batch size",
    "batch_count": "Batch count",
    "clip_skip": "CLIP skip",
    "emphasis": "Emphasis",
    "noise_source": "Noise source",
    "exact_batches": "Exact batches",
    "use_ema": "Averaged weights",
    "detailers": "Details",
    "hires.is_on": "Hires fix",
    "tiles.is_on": "Tiled diffusion",
}
EMPTY_FORM = {
    "prompt": "a cat",
    "negative_prompt": "",
    "checkpoint": "tiny",
    "vae": "",
    "text_encoders": [],
    "recipe": "",
    "refiner": "",
    "refiner_switch": 0.8,
    "refiner_switch_timestep": None,
    "sampler": "",
    "schedule": "",
    "steps": None,
    "guidance_scale": None,
    "distilled_guidance": None,
    "guidance_rescale": None,
    "prediction": "",
    "shift": None,
    "width": None,
    "height": None,
    "seed": "",
    "batch_size": 1,
    "batch_count": 1,
    "clip_skip": None,
    "emphasis": "original",
    "noise_source": "nv",
    "exact_batches": False,
    "use_ema": False,
    "adapters": [],
    "skips_missing_adapters": False,
    "name_hashes": None,
    "detailers": [],
    "hires.is_on": False,
    "tiles.is_on": False,
}
INFOTEXT = """a cat, (red:1.2)
in the rain
Negative prompt: blurry
Steps: 12, Sampler: Heun Karras, CFG scale: 4.5, Seed: 9007199254740993, Size: 96x128, Model: tiny, Clip skip: 2"""


class Page:
    """A page in the words of its user: fields of a form by their names, handlers by theirs."""

    def __init__(self, blocks: gr.Blocks, tab: str = "txt2img") -> None:
        self.blocks = blocks
        self.tab = tab
        self._labelled = {
            block.label: block
            for block in blocks.blocks.values()
            if isinstance(block, gr.components.Component) and _tab_of(block) in (tab, "")
        }

    def field(self, name: str) -> Any:
        return self._labelled[LABELS[name]]

    def labelled(self, label: str) -> Any:
        return self._labelled[label]

    def handler(self, name: str) -> Callable[..., Any]:
        return self.event(name).fn

    def event(self, name: str) -> Any:
        found = [event for event in self.blocks.fns.values() if getattr(event.fn, "__name__", "") == name]
        return next((event for event in found if self._is_here(event)), found[0])

    def _is_here(self, event: Any) -> bool:
        return any(_tab_of(self.blocks.blocks[block]) == self.tab for block, _ in event.targets)

    def generate(self, **changes: Any) -> dict[str, Any]:
        untouched = {component: component.value for component in self.event("generate").inputs}
        values = {self.field(name): value for name, value in {**EMPTY_FORM, **changes}.items()}
        return self.handler("generate")({**untouched, **values})

    def after(self, handler: str, **data: Any) -> dict[str, Any]:
        """What an event with this data sets the fields to, by their names; other components by their labels."""
        names = {label: name for name, label in LABELS.items()}
        result = self.handler(handler)(gr.EventData(None, data))
        return {names.get(component.label, component.label): value for component, value in result.items()}


def _tab_of(block: Any) -> str:
    """The tab that a block is in, "" outside of all."""
    while block is not None and not isinstance(block, gr.Tab):
        block = block.parent
    return block.id if block else ""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings.for_root(tmp_path_factory.mktemp("page"), force_cpu=True, full_precision=True)
    checkpoints = settings.checkpoint_dirs[0]
    facts = {"modelspec.usage_hint": "Ask for circles.", "modelspec.license": "Apache-2.0"}
    write_tiny_checkpoint(checkpoints / "tiny.safetensors", metadata=facts)
    (checkpoints / "broken.safetensors").write_text("<html>404</html>")
    write_extension(settings.extensions_dir, "well", _NOTHING, ui=_GOOD_TAB)
    write_extension(settings.extensions_dir, "ill", _NOTHING, ui=_BAD_TAB)
    write_extension(settings.extensions_dir, "without-setup", _NOTHING, ui="x = 1")
    write_extension(settings.extensions_dir, "broken", "raise RuntimeError('no luck')")
    return settings


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Iterator[Engine]:
    """Jobs wait in it for ever: what becomes of them is not the page's affair."""
    engine = Engine.open(settings, persistent=False, start=False)
    yield engine
    for job in engine.jobs():
        engine.cancel(job.id)


@pytest.fixture(scope="module")
def extensions(engine: Engine) -> Iterator[Extensions]:
    with load_extensions(engine.settings.extensions_dir, engine) as extensions:
        yield extensions


@pytest.fixture(scope="module")
def page(engine: Engine, extensions: Extensions) -> Page:
    return Page(build_page(engine, extensions))


@pytest.fixture(scope="module")
def client(engine: Engine, page: Page) -> Iterator[TestClient]:
    app = build_app(engine, Security(), folders={ASSETS_URL: ASSETS_FOLDER})
    mount_page(app, page.blocks)
    with client_of(app) as client:
        yield client


# What it is made of


def test_every_field_of_a_request_is_on_the_form(page):
    structured = {"init", "hires", "tiles"}
    assert {name for name in LABELS if "." not in name} == {
        field.name for field in dataclasses.fields(GenerationRequest) if field.name not in structured
    }
    assert {page.field(name) for name in LABELS} <= set(page.event("generate").inputs)


def test_everything_that_holds_a_value_has_a_label(page):
    holders = [
        block for block in page.blocks.blocks.values() if isinstance(block, gr.components.FormComponent | gr.HTML)
    ]
    assert holders
    assert [type(block) for block in holders if not block.label] == []


def test_no_event_is_public_not_even_an_extensions(page):
    assert {event.api_visibility for event in page.blocks.fns.values()} == {"private"}


def test_nothing_keeps_a_connection_open_per_browser_tab(page):
    events = {name for event in page.blocks.fns.values() for _, name in event.targets}
    assert not [block for block in page.blocks.blocks.values() if isinstance(block, gr.State)]
    assert "unload" not in events


def test_no_text_box_has_a_button_that_takes_its_name(page):
    assert page.field("prompt").buttons == page.field("negative_prompt").buttons == []


def test_a_template_holds_no_place_for_data_that_gradio_would_run_as_code(page):
    templates = [block.html_template for block in page.blocks.blocks.values() if isinstance(block, gr.HTML)]
    assert len(templates) > 10
    assert not [template for template in templates if "${" in template or "{{" in template]


def test_a_component_without_its_script_cannot_be_made():
    with pytest.raises(ValueError, match="no_such"):
        mounts("no_such.js")


# Generate


def test_generate_queues_what_the_form_says(page, engine):
    given = {
        "prompt": "two cats",
        "negative_prompt": "dogs",
        "sampler": "euler",
        "schedule": "karras",
        "steps": 7,
        "guidance_scale": 3.5,
        "width": 96,
        "height": 64,
        "seed": "9007199254740993",
        "batch_size": 2,
        "batch_count": 3,
        "clip_skip": 2,
        "emphasis": "no_norm",
        "noise_source": "cpu",
        "exact_batches": True,
        "guidance_rescale": 0.5,
        "refiner": "tiny",
        "refiner_switch": 0.4,
        "refiner_switch_timestep": 300,
    }
    status = page.generate(**given)
    job = engine.job(status["job"])
    assert status["kind"] == "queued"
    assert job.state is JobState.QUEUED
    assert {name: getattr(job.request, name) for name in given} == {**given, "seed": 9007199254740993}
    assert job.request.checkpoint == "tiny"


def test_what_means_nothing_to_the_model_is_not_part_of_the_job(page, engine):
    request = engine.job(page.generate(shift=3.0, distilled_guidance=5.0)["job"]).request
    assert request.shift is request.distilled_guidance is None


def test_an_empty_field_takes_what_the_model_has(page, engine):
    request = engine.job(page.generate()["job"]).request
    facts = engine.describe_checkpoint("tiny")
    assert (request.width, request.height) == (facts.native_size, facts.native_size)
    assert (request.steps, request.sampler) == (facts.defaults.steps, facts.defaults.sampler)
    assert request.guidance_scale == facts.defaults.guidance_scale
    assert request.guidance_rescale == facts.defaults.guidance_rescale
    assert request.prediction is None


def test_a_prediction_that_is_chosen_changes_what_the_model_is_used_with(page, engine):
    result = page.handler("describe")("tiny", "v_zero_snr")
    card = result[page.labelled("About this checkpoint")]
    assert "zero terminal SNR" in card["defaults"]["reason"]
    assert result[page.field("sampler")]["choices"][0] == ("Euler (model)", "")
    assert result[page.field("prediction")]["choices"][0] == ("Noise (eps) (model)", "")
    again = page.handler("look_again")("tiny", "v_zero_snr")
    assert again[page.labelled("About this checkpoint")]["defaults"] == card["defaults"]
    request = engine.job(page.generate(prediction="v_zero_snr")["job"]).request
    assert (request.prediction, request.sampler) == (PredictionKind.V_ZERO_SNR, "euler")
    fields = page.after("opened", values={**EMPTY_FORM, "prediction": "v_zero_snr"})
    assert fields["prediction"]["value"] == "v_zero_snr"
    assert fields["sampler"]["choices"][0] == ("Euler (model)", "")
    restored = page.after("pasted", text=f"{INFOTEXT}, Prediction: v")
    assert restored["prediction"] == "v"
    assert page.after("pasted", text=INFOTEXT)["prediction"] == ""


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("steps", 0, "steps"),
        ("steps", 20.5, "steps"),
        ("steps", "many", "steps"),
        ("width", 100, "width"),
        ("height", 100_000, "height"),
        ("guidance_scale", math.nan, "guidance_scale"),
        ("seed", "-5", "seed"),
        ("seed", "1e5", "seed"),
        ("seed", ["1"], "seed"),
        ("batch_size", 65, "batch_size"),
        ("sampler", "no such sampler", "no such sampler"),
        ("checkpoint", "gone", "gone"),
        ("checkpoint", "broken", "broken.safetensors"),
        ("vae", "gone", "gone"),
        ("refiner", "gone", "gone"),
        ("refiner_switch", 2, "refiner_switch"),
        ("refiner_switch_timestep", 1000, "refiner_switch_timestep"),
        ("text_encoders", ["gone"], "gone"),
        ("text_encoders", "gone", "text_encoders"),
        ("guidance_rescale", -1, "guidance_rescale"),
        ("shift", 0, "shift"),
        ("prompt", "x" * 70_000, "prompt"),
        ("prompt", None, "prompt"),
        ("exact_batches", "yes", "exact_batches"),
    ],
)
def test_a_value_that_cannot_be_used_is_told_and_queues_nothing(page, engine, field, value, told):
    before = len(engine.jobs())
    status = page.generate(**{field: value})
    assert status["kind"] == "problem"
    assert told in status["text"]
    assert len(engine.jobs()) == before


def test_the_same_problem_twice_is_told_twice(page):
    assert page.generate(steps=0)["text"] == page.generate(steps=0)["text"]
    assert page.generate(steps=0) != page.generate(steps=0)


# Models


def test_a_checkpoint_that_cannot_be_used_is_listed_with_the_reason(page):
    shown = {value: text for text, value in page.field("checkpoint").choices}
    assert shown["tiny"] == "tiny"
    assert "cannot be used" in shown["broken"]
    assert page.field("checkpoint").value == "tiny"


def test_the_card_says_what_the_header_says(page, engine):
    result = page.handler("describe")("tiny", "")
    card = result[page.labelled("About this checkpoint")]
    assert card["title"] == "Tiny random model"
    assert card["usage_hint"] == "Ask for circles."
    assert card["licence"] == "Apache-2.0"
    assert card["native_size"] == 64
    assert card["defaults"]["steps"] == engine.describe_checkpoint("tiny").defaults.steps
    assert card["usual"] == "20 steps, DPM++ 2M, guidance 7"
    assert card["parts"] == [["CLIP-L", "inside", "inside"], ["VAE", "inside", "inside"]]
    assert (card["size_step"], card["has_shift"], card["is_refiner"]) == (8, False, False)
    assert card["picture_use"] == "none"
    assert result[page.field("sampler")]["choices"][0] == ("DPM++ 2M (model)", "")


def test_the_card_says_what_a_checkpoint_lacks_and_which_file_stands_in(page, settings):
    network = FluxConfig(
        width=64, heads=2, mlp_width=64, double_blocks=1, single_blocks=1, context_dim=32, vector_dim=16
    )
    tensors = {f"model.diffusion_model.{key}": value for key, value in Flux(network).state_dict().items()}
    lacking = settings.checkpoint_dirs[0] / "lacking.safetensors"
    write_safetensors(lacking, tensors, {})
    encoder = write_t5_header(settings.text_encoder_dirs[0] / "large.safetensors")
    page.handler("look_again")("tiny", "")
    card = page.handler("describe")("lacking", "")[page.labelled("About this checkpoint")]
    parts = {name: (where, kind) for name, where, kind in card["parts"]}
    assert parts["T5-XXL"] == ("large", "file")
    assert parts["CLIP-L"][1] == parts["VAE"][1] == "missing"
    assert "models/text_encoders" in parts["CLIP-L"][0]
    assert card["has_shift"]
    assert card["defaults"]["distilled_guidance"] == 3.5
    assert "FLUX.1" in card["defaults"]["reason"]
    assert page.generate(checkpoint="lacking")["kind"] == "problem"
    for file in (lacking, encoder):
        file.unlink()
    page.handler("look_again")("tiny", "")


@pytest.mark.parametrize("name", ["broken", "gone"])
def test_the_card_says_why_a_checkpoint_cannot_be_used(page, name):
    card = page.handler("describe")(name, "")[page.labelled("About this checkpoint")]
    assert name in card["problem"]


def test_a_file_that_came_or_went_is_seen_after_looking_again(page, settings):
    added = write_tiny_checkpoint(settings.checkpoint_dirs[0] / "added.safetensors")
    seen = page.handler("look_again")("tiny", "")[page.field("checkpoint")]
    added.unlink()
    gone = page.handler("look_again")("added", "")[page.field("checkpoint")]
    assert "added" in dict(seen["choices"])
    assert seen["value"] == "tiny"
    assert "added" not in dict(gone["choices"])
    assert gone["value"] == "tiny"


def test_tokens_are_counted_for_any_text(page):
    count = page.labelled("Prompt: tokens").count_tokens
    assert count("") == [0, 75]
    assert count("a cat") == [2, 75]
    assert count("cat " * 80) == [80, 150]
    assert count(None)[1] == 75
    assert count("x" * 200_000)[0] > 75


# What the browser kept, and what is pasted


def test_the_form_comes_back_as_it_was_left(page):
    left = {**EMPTY_FORM, "prompt": "kept", "steps": 9, "seed": "5", "sampler": "heun", "exact_batches": True}
    fields = page.after("opened", values=left)
    assert fields["prompt"] == "kept"
    assert (fields["steps"], fields["seed"], fields["exact_batches"]) == (9, "5", True)
    assert fields["sampler"]["value"] == "heun"
    assert fields["Form"] == {"state": "open"}


@pytest.mark.parametrize(
    "values", [None, [], "text", {"checkpoint": "gone", "sampler": 5, "steps": {"a": 1}, "x": "y"}]
)
def test_what_never_came_from_a_form_is_passed_over(page, values):
    fields = page.after("opened", values=values)
    assert fields["checkpoint"]["value"] == "tiny"
    assert fields["sampler"]["value"] == ""
    assert "steps" not in fields


def test_a_refiner_that_is_used_does_not_hide_in_a_closed_box(page):
    fields = page.after("opened", values={**EMPTY_FORM, "refiner": "tiny", "text_encoders": ["gone", 5]})
    assert fields["refiner"]["value"] == "tiny"
    assert fields["text_encoders"]["value"] == []
    boxes = [block for block in page.blocks.blocks.values() if isinstance(block, gr.Accordion)]
    box = next(block for block in boxes if block.label == "Refiner")
    pasted = page.handler("pasted")(gr.EventData(None, {"text": f"{INFOTEXT}, Refiner: tiny, Refiner switch at: 0.6"}))
    assert pasted[box]["open"]
    assert pasted[page.field("refiner_switch")] == 0.6
    opened = page.handler("opened")(gr.EventData(None, {"values": EMPTY_FORM}))
    assert not opened[box]["open"]


def test_what_a_text_was_made_without_does_not_stay_in_the_form(page):
    fields = page.after("pasted", text=INFOTEXT)
    assert (fields["refiner"], fields["guidance_rescale"], fields["shift"]) == ("", 0, None)
    assert "refiner" not in page.after("pasted", text="only a prompt")


def test_a_pasted_infotext_fills_the_form(page):
    fields = page.after("pasted", text=INFOTEXT)
    assert fields["prompt"] == "a cat, (red:1.2)\nin the rain"
    assert fields["negative_prompt"] == "blurry"
    assert (fields["steps"], fields["guidance_scale"], fields["clip_skip"]) == (12, 4.5, 2)
    assert (fields["width"], fields["height"]) == (96, 128)
    assert fields["seed"] == "9007199254740993"
    assert (fields["sampler"], fields["schedule"]) == ("heun", "karras")
    assert fields["checkpoint"] == "tiny"
    assert fields["Message"]["kind"] == "toast"
    assert "batch_size" not in fields


def test_what_a_picture_of_ours_says_restores_the_request_that_made_it(page, engine):
    asked = engine.job(page.generate(seed="77", sampler="heun", schedule="karras", steps=3)["job"]).request
    fields = page.after(
        "pasted", text="a cat\nSteps: 3, Sampler: Heun, Schedule type: Karras, CFG scale: 7, Seed: 77, Size: 64x64"
    )
    for name in ("prompt", "sampler", "schedule", "steps", "width", "height"):
        assert fields[name] == getattr(asked, name)
    assert fields["seed"] == str(asked.seed)


def test_names_that_are_unknown_here_are_told_and_the_rest_is_restored(engine):
    restored = restore(engine, "a cat\nSteps: 12, Sampler: Unheard of, Seed: 1, Model: elsewhere, ControlNet 0: yes")
    assert restored.values["steps"] == 12
    assert "sampler" not in restored.values
    assert "checkpoint" not in restored.values
    told = "\n".join(restored.notices)
    assert all(name in told for name in ("Unheard of", "elsewhere", "ControlNet 0"))


def test_a_text_without_settings_is_a_prompt_and_changes_nothing_else(engine):
    assert restore(engine, "just a cat").values == {"prompt": "just a cat", "negative_prompt": ""}


@pytest.mark.parametrize(("written", "schedule"), [("Automatic", ""), ("Karras", "karras")])
def test_automatic_is_the_choice_to_take_the_samplers_own_schedule(engine, written, schedule):
    restored = restore(engine, f"x\nSteps: 4, Sampler: Euler, Schedule type: {written}, Seed: 1")
    assert restored.values["schedule"] == schedule


# Extensions


def test_a_broken_extension_is_named_and_costs_its_own_tab_only(page):
    tabs = [block.label for block in page.blocks.blocks.values() if isinstance(block, gr.Tab)]
    assert tabs == [
        "txt2img",
        "img2img",
        "inpaint",
        "Extras",
        "LoRA",
        "Merge",
        "Plots",
        "Ill",
        "Well",
        "Memory",
        "Extensions",
    ]
    problems = {entry["id"]: " ".join(entry["problems"]) for entry in page.handler("entries")()}
    assert problems["well"] == ""
    assert "no paint left" in problems["ill"]
    assert "setup_page" in problems["without-setup"]
    assert "no luck" in problems["broken"]


def test_the_list_says_what_an_extension_says_about_itself(page):
    entries = {entry["id"]: entry for entry in page.handler("entries")()}
    assert entries["well"]["state"] == "on"
    assert entries["well"]["description"] == "For a test."
    assert entries["broken"]["state"] == "failed"


# Doors


def test_gradio_checks_paths_because_the_page_counts_as_launched(client, page):
    assert page.blocks.has_launched


def test_a_file_that_a_client_merely_names_is_not_read(client, page, tmp_path):
    assert "error" in _run_with_forged_file(client, page, tmp_path / "private.png").json()


def test_gradio_would_read_it_if_the_page_did_not_count_as_launched(client, page, tmp_path):
    """The test above can fail: this is the only thing that shuts the door."""
    page.blocks.has_launched = False
    try:
        assert "error" not in _run_with_forged_file(client, page, tmp_path / "private.png").json()
    finally:
        page.blocks.has_launched = True


def test_sessions_are_few_and_the_history_of_runs_is_off(client, page):
    assert page.blocks.state_session_capacity == 64
    config = client.get("/config").json()
    assert not config.get("run_history")
    assert config["footer_links"] == []


@pytest.mark.parametrize("path", ["/monitoring/summary", "/gradio_api/mcp/", "/gradio_api/mcp/sse", "/docs"])
def test_nothing_else_of_gradio_answers(client, path):
    assert client.get(path).status_code in (403, 404, 405)


def test_the_page_brings_its_own_style_and_names_no_other_site(client):
    style = client.get("/theme.css").text
    assert style_sheet() in style
    assert "http://" not in style.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in style


def test_every_script_is_served(client):
    for script in ASSETS_FOLDER.glob("*.js"):
        answer = client.get(f"{ASSETS_URL}/{script.name}")
        assert answer.status_code == 200
        assert "javascript" in answer.headers["content-type"]  # whose first half libraries change while they run


def test_scripts_are_asked_for_under_an_address_that_changes_with_them(page):
    templates = [block.js_on_load for block in page.blocks.blocks.values() if isinstance(block, gr.HTML)]
    ours = [code for code in templates if code and "import(" in code]
    assert len(ours) > 10
    assert all(ASSETS_URL.lstrip("/") in code for code in ours)


def test_gradio_finds_a_quiet_environment_and_an_empty_folder(tmp_path, monkeypatch):
    for name in ("GRADIO_SHARE", "GRADIO_MCP_SERVER", "GRADIO_ALLOWED_PATHS"):
        monkeypatch.setenv(name, "x")
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "x")
    settings = Settings.for_root(tmp_path)
    left_over = settings.data_dir / "gradio-temp" / "old" / "picture.png"
    left_over.parent.mkdir(parents=True)
    left_over.write_bytes(b"x")
    prepare_environment(settings)
    assert "GRADIO_SHARE" not in os.environ
    assert "GRADIO_MCP_SERVER" not in os.environ
    assert "GRADIO_ALLOWED_PATHS" not in os.environ
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert Path(os.environ["GRADIO_TEMP_DIR"]) == settings.data_dir / "gradio-temp"
    assert list((settings.data_dir / "gradio-temp").iterdir()) == []


def test_a_link_in_the_place_of_that_folder_is_not_followed(tmp_path, monkeypatch):
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.txt").write_text("x")
    settings = Settings.for_root(tmp_path / "root")
    settings.data_dir.mkdir(parents=True)
    (settings.data_dir / "gradio-temp").symlink_to(elsewhere)
    prepare_environment(settings)
    assert (elsewhere / "precious.txt").exists()


def _run_with_forged_file(client: TestClient, page: Page, file: Path) -> Any:
    """Ask an event of the page to take a file of the server for an upload."""
    Image.new("RGB", (8, 8)).save(file)
    event = page.event("generate")
    forged = {"path": str(file), "meta": {"_type": "gradio.FileData"}}
    data = [forged if component is page.field("steps") else None for component in event.inputs]
    body = {"data": data, "fn_index": event._id, "session_hash": "s", "trigger_id": None, "event_data": None}
    return client.post("/gradio_api/run/predict", json=body)


_NOTHING = "def setup(api): pass"
_GOOD_TAB = """
    import gradio as gr
    from ui.api import Tab

    def build(engine):
        name, out = gr.Textbox(label="Name", buttons=[]), gr.Markdown()
        name.submit(lambda text: text, name, out)

    def setup_page(api):
        api.add_tab(Tab(name="well", label="Well", build=build))
"""
_BAD_TAB = """
    import gradio as gr
    from ui.api import Tab

    def build(engine):
        with gr.Row():
            gr.Markdown("half a tab")
            raise RuntimeError("no paint left")

    def setup_page(api):
        api.add_tab(Tab(name="ill", label="Ill", build=build))
"""


# LoRAs


def test_rows_that_are_off_are_no_part_of_the_request_and_come_back_with_the_form(page, engine):
    rows = [
        {"is_on": False, "elemental": "", "adapter": {"file": {"name": "fog"}, "strength": 0.5}},
        {"is_on": True, "elemental": "", "adapter": {"file": {"name": "nowhere"}, "strength": 0.25}},
    ]
    status = page.generate(adapters=rows)
    assert status["kind"] == "problem"
    assert "nowhere" in status["text"]
    assert "fog" not in status["text"]
    request = engine.job(page.generate(adapters=rows, skips_missing_adapters=True)["job"]).request
    assert [row.use.file.name for row in request.adapters] == ["nowhere"]
    kept = {"adapters": [*rows, {"adapter": {"strength": "much"}}, "x"], "name_hashes": {"fog": "no hash"}}
    fields = page.after("opened", values=kept)
    assert fields["adapters"] == rows
    assert fields["name_hashes"] == {}


@pytest.mark.parametrize(
    "rows", ["fog", [3], [{"is_on": True}], [{"adapter": {"file": {"name": "fog"}, "strength": "x"}}]]
)
def test_rows_that_are_none_are_refused_in_words(page, rows):
    status = page.generate(adapters=rows)
    assert status["kind"] == "problem"
    assert "adapters" in status["text"]


def test_the_rows_of_a_picture_are_restored_and_missing_files_are_told(page):
    rows = '[{\\"file\\": {\\"name\\": \\"nowhere\\"}, \\"strength\\": 0.5}]'
    text = (
        f'a cat\nSteps: 3, Sampler: Euler, CFG scale: 7, Seed: 77, Lora hashes: "fog: 0123456789ab", Adapters: "{rows}"'
    )
    fields = page.after("pasted", text=text)
    assert fields["adapters"][0]["adapter"]["file"] == {"name": "nowhere"}
    assert fields["adapters"][0]["is_on"]
    assert fields["name_hashes"] == {"fog": "0123456789ab"}
    assert "nowhere" in fields["Message"]["text"]
    assert page.after("pasted", text=INFOTEXT)["adapters"] == []
