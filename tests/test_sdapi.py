"""/sdapi/v1 as A1111's clients use it, on a real engine."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time

import numpy as np
import pytest
from PIL import Image

from backend.http.security import Security
from backend.http.server import build_app
from backend.images.png_text import encode_png, read_png_text
from backend.pipeline.infotext import read_infotext
from backend.weights.safetensors_file import write_safetensors
from tests.http_server import SMALL, client_of, engine_in, server_of
from tests.tiny_checkpoint import tiny_tensors, write_t5_header

SDAPI = "/sdapi/v1"
ENDLESS = {"prompt": "a cat", "width": 64, "height": 64, "steps": 1000}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with engine_in(tmp_path_factory.mktemp("sdapi"), checkpoints=2) as engine:
        yield engine


@pytest.fixture(scope="module")
def client(engine):
    with client_of(build_app(engine, Security())) as client:
        yield client


def generate(client, **fields):
    return client.post(f"{SDAPI}/txt2img", json={"prompt": "a cat", **SMALL, **fields})


def made(client, **fields):
    """(files, info) of pictures that were made."""
    answer = generate(client, **fields)
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(image) for image in answer.json()["images"]], json.loads(answer.json()["info"])


def wait_for(what, seconds: float = 20):
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return value


# txt2img


def test_makes_a_picture_that_carries_its_infotext(client):
    files, info = made(client, negative_prompt="dog", seed=7, cfg_scale=3, sampler_name="Euler a", scheduler="karras")
    assert Image.open(io.BytesIO(files[0])).size == (64, 64)
    text = read_png_text(files[0])["parameters"]
    assert info["infotexts"] == [text]
    infotext = read_infotext(text)
    assert (infotext.prompt, infotext.negative_prompt) == ("a cat", "dog")
    expected = {
        "Steps": "2",
        "Sampler": "Euler a",
        "Schedule type": "Karras",
        "CFG scale": "3",
        "Seed": "7",
        "Size": "64x64",
    }
    assert expected.items() <= infotext.parameters.items()
    assert (info["seed"], info["all_seeds"], info["index_of_first_image"]) == (7, [7], 0)
    assert (info["sampler_name"], info["sd_model_name"]) == ("Euler a", "tiny-0")
    assert len(info["sd_model_hash"]) == 10


def test_batches_have_one_seed_after_the_other(client):
    files, info = made(client, seed=40, batch_size=2, n_iter=2)
    assert len(set(files)) == 4
    assert info["all_seeds"] == [40, 41, 42, 43]
    assert len(info["infotexts"]) == len(info["all_prompts"]) == 4


def test_what_is_left_out_suits_the_checkpoint(client):
    answer = client.post(f"{SDAPI}/txt2img", json={"prompt": "a cat", "steps": 1})
    info = json.loads(answer.json()["info"])
    assert (info["width"], info["height"]) == (64, 64)  # the native size of the tiny checkpoint
    assert info["seed"] >= 0
    assert answer.json()["parameters"] == {"prompt": "a cat", "steps": 1}


@pytest.mark.parametrize(
    ("fields", "sampler", "schedule"),
    [
        ({"sampler_name": "DPM++ 2M SDE"}, "DPM++ 2M SDE", None),
        ({"sampler_index": "Euler"}, "Euler", None),
        ({"sampler_name": "Heun", "sampler_index": "Euler"}, "Heun", None),
        ({"sampler_name": "Euler a Karras"}, "Euler a", "Karras"),
        ({"sampler_name": "Euler Karras", "scheduler": "Automatic"}, "Euler", "Karras"),
        ({"sampler_name": "DPM++ 2M Karras", "scheduler": "Simple"}, "DPM++ 2M", None),  # Karras is its own
        ({"sampler_name": "k_euler_a", "scheduler": "SGM Uniform"}, "Euler a", "SGM Uniform"),
        ({"sampler_name": "Euler", "scheduler": "Automatic"}, "Euler", None),
        ({"sampler_name": "Euler", "scheduler": ""}, "Euler", None),
    ],
)
def test_understands_samplers_and_schedulers_by_all_their_names(client, fields, sampler, schedule):
    _, info = made(client, **fields)
    written = read_infotext(info["infotexts"][0]).parameters
    assert (written["Sampler"], written.get("Schedule type")) == (sampler, schedule)


def test_settings_can_be_overridden_for_one_job(engine, client):
    title = engine.library.find_checkpoint("tiny-1").title
    settings = {
        "sd_model_checkpoint": title,
        "CLIP_stop_at_last_layers": 2,
        "sd_vae": "Automatic",
        "randn_source": "CPU",
    }
    _, info = made(client, override_settings=settings)
    written = read_infotext(info["infotexts"][0]).parameters
    assert (written["Model"], written["Clip skip"], written["RNG"]) == ("tiny-1", "2", "CPU")
    assert made(client)[1]["sd_model_name"] == "tiny-0"


def test_an_infotext_fills_what_is_not_given(client):
    files, info = made(client, seed=9, sampler_name="Heun", cfg_scale=2, n_iter=1)
    answer = client.post(f"{SDAPI}/txt2img", json={"infotext": info["infotexts"][0]})
    assert base64.b64decode(answer.json()["images"][0]) == files[0]
    again = client.post(f"{SDAPI}/txt2img", json={"infotext": info["infotexts"][0], "seed": 10, "prompt": "a dog"})
    told = json.loads(again.json()["info"])
    assert (told["seed"], told["prompt"], told["sampler_name"]) == (10, "a dog", "Heun")


def test_pictures_are_kept_only_when_asked_for(engine, client):
    def kept():
        return set(engine.settings.output_dir.rglob("*.png"))

    before = kept()
    made(client, seed=1)
    made(client, seed=1, save_images=True, do_not_save_samples=True)
    assert kept() == before
    files, _ = made(client, seed=1, save_images=True)
    (new,) = kept() - before
    assert new.read_bytes() == files[0]


def test_pictures_are_left_out_when_they_are_not_wanted(client):
    files, info = made(client, send_images=False)
    assert files == []
    assert len(info["infotexts"]) == 1


# What the known clients send: webuiapi and SillyTavern write every field at its neutral value.
WEBUIAPI = {
    "enable_hr": False, "hr_scale": 2, "hr_upscaler": "Latent", "hr_second_pass_steps": 0, "hr_resize_x": 0,
    "hr_resize_y": 0, "hr_prompt": "", "denoising_strength": 0.7, "firstphase_width": 0, "firstphase_height": 0,
    "styles": [], "seed": -1, "subseed": -1, "subseed_strength": 0.0, "seed_resize_from_h": 0, "seed_resize_from_w": 0,
    "batch_size": 1, "n_iter": 1, "cfg_scale": 7.0, "restore_faces": False, "tiling": False,
    "do_not_save_samples": False, "do_not_save_grid": False, "negative_prompt": "", "eta": 1.0, "s_churn": 0,
    "s_tmax": 0, "s_tmin": 0, "s_noise": 1, "override_settings": {}, "override_settings_restore_afterwards": True,
    "sampler_name": None, "sampler_index": None, "script_name": "", "script_args": [], "send_images": True,
    "save_images": False, "alwayson_scripts": {}, "refiner_checkpoint": "", "refiner_switch_at": 0.8,
}  # fmt: skip
SILLY_TAVERN = {
    "negative_prompt": "", "sampler_name": "DPM++ 2M Karras", "scheduler": "Karras", "steps": 2.0, "cfg_scale": 7,
    "restore_faces": False, "enable_hr": False, "hr_upscaler": "Latent", "hr_scale": 1.5, "denoising_strength": 0.5,
    "hr_second_pass_steps": 0, "seed": None, "clip_skip": 1, "save_images": True, "send_images": True,
    "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic", "forge_additional_modules": []},
    "override_settings_restore_afterwards": True, "do_not_save_grid": False, "do_not_save_samples": False,
}  # fmt: skip


@pytest.mark.parametrize("body", [WEBUIAPI, SILLY_TAVERN], ids=["webuiapi", "SillyTavern"])
def test_known_clients_are_served(client, body):
    _, info = made(client, **body)
    assert info["notices"] == []


def test_a_refiner_finishes_the_picture(client):
    (alone,), _ = made(client, seed=5)
    (refined,), info = made(client, seed=5, refiner_checkpoint="tiny-1.safetensors", refiner_switch_at=0.5)
    assert Image.open(io.BytesIO(alone)).tobytes() != Image.open(io.BytesIO(refined)).tobytes()
    assert info["extra_generation_params"]["Refiner"] == "tiny-1"
    assert info["extra_generation_params"]["Refiner switch at"] == "0.5"


@pytest.mark.parametrize("nobody", ["", "None", None])
def test_no_refiner_can_be_said_in_three_ways(client, nobody):
    _, info = made(client, refiner_checkpoint=nobody, refiner_switch_at=0.5, distilled_cfg_scale=3.5)
    assert info["extra_generation_params"] == {}


def test_a_module_of_forge_is_a_vae_or_a_text_encoder(client, engine):
    folder = engine.settings.models_dir
    vae = {key: value for key, value in tiny_tensors().items() if key.startswith("first_stage_model.")}
    (folder / "vae").mkdir(exist_ok=True)
    write_safetensors(folder / "vae" / "other.safetensors", vae, {})
    write_t5_header(folder / "text_encoders" / "large.safetensors")
    client.post(f"{SDAPI}/refresh-vae")
    modules = [module["model_name"] for module in client.get(f"{SDAPI}/sd-modules").json()]
    assert modules == ["other", "large"]
    settings = {"forge_additional_modules": ["C:\\forge\\models\\VAE\\other.safetensors"]}
    _, info = made(client, override_settings=settings)
    assert info["sd_vae_name"] == "other"
    made(client, override_settings={"forge_additional_modules": ["other", "large"]})
    assert "large" in " ".join(engine.jobs()[-1].notices)  # SD 1.x reads no T5
    for file in ("vae/other.safetensors", "text_encoders/large.safetensors"):
        (folder / file).unlink()
    client.post(f"{SDAPI}/refresh-vae")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("styles", ["anime"]),
        ("subseed_strength", 0.3),
        ("seed_resize_from_h", 512),
        ("restore_faces", True),
        ("tiling", True),
        ("eta", 0.5),
        ("s_churn", 1),
        ("s_min_uncond", 1.5),
        ("script_name", "x/y/z plot"),
        ("alwayson_scripts", {"ADetailer": {"args": []}}),
        ("override_settings.eta_noise_seed_delta", 31337),
    ],
)
def test_what_is_asked_for_and_not_there_is_named(client, field, value):
    outer, _, inner = field.partition(".")
    answer = generate(client, **{outer: {inner: value} if inner else value})
    assert (answer.status_code, answer.json()["error"], answer.json()["field"]) == (501, "NotSupported", field)


def test_what_nobody_knows_is_told_and_the_rest_is_done(client):
    _, info = made(client, colour="red", override_settings={"grid_format": "jpg"}, eta=1, sampler_name="DDIM")
    told = "\n".join(info["notices"])
    for name in ("colour", "override_settings.grid_format", "eta 1"):
        assert name in told


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": "many"}, "steps"),
        ({"width": 7}, "width"),
        ({"width": 0}, "width"),
        ({"height": 100_000}, "height"),
        ({"cfg_scale": -1}, "cfg_scale"),
        ({"cfg_scale": 1e308}, "cfg_scale"),
        ({"cfg_scale": "7"}, "cfg_scale"),
        ({"seed": -5}, "seed"),
        ({"seed": 10**30}, "seed"),
        ({"n_iter": 100}, "n_iter"),
        ({"batch_size": 0}, "batch_size"),
        ({"prompt": ["a"]}, "prompt"),
        ({"prompt": "x" * 70_000}, "prompt"),
        ({"sampler_name": "nobody"}, "sampler_name"),
        ({"sampler_name": 5}, "sampler_name"),
        ({"scheduler": "nobody"}, "scheduler"),
        ({"scheduler": 5}, "scheduler"),
        ({"send_images": "no"}, "send_images"),
        ({"override_settings": []}, "override_settings"),
        ({"override_settings": {"sd_model_checkpoint": "nobody"}}, "sd_model_checkpoint"),
        ({"override_settings": {"sd_vae": "nobody"}}, "sd_vae"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 99}}, "CLIP_stop_at_last_layers"),
        ({"override_settings": {"emphasis": "nobody"}}, "emphasis"),
        ({"refiner_checkpoint": "nobody"}, "refiner_checkpoint"),
        ({"refiner_checkpoint": 5}, "refiner_checkpoint"),
        ({"refiner_checkpoint": "tiny-1", "refiner_switch_at": 1.5}, "refiner_switch_at"),
        ({"distilled_cfg_scale": -1}, "distilled_cfg_scale"),
        ({"override_settings": {"forge_additional_modules": ["nobody"]}}, "forge_additional_modules"),
        ({"override_settings": {"forge_additional_modules": "ae"}}, "forge_additional_modules"),
        ({"infotext": 5}, "infotext"),
        ({"infotext": "cat\nSteps: 2, Seed: 1, Model: nobody"}, "sd_model_checkpoint"),
    ],
)
def test_a_wrong_field_is_refused_by_the_clients_name_for_it(client, body, field):
    answer = generate(client, **body)
    assert (answer.status_code, answer.json()["error"], answer.json()["field"]) == (422, "RequestError", field)
    assert answer.json().keys() == {"error", "detail", "body", "errors", "field"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["cfg_scale", "steps", "width", "seed", "denoising_strength", "eta", "colour"])
def test_numbers_that_are_none_are_refused_by_field(client, field, number):
    answer = client.post(
        f"{SDAPI}/txt2img", content=f'{{"{field}": {number}}}', headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_a_job_that_fails_is_told_by_its_error(engine, client, tmp_path):
    broken = engine.settings.models_dir / "checkpoints" / "broken.safetensors"
    broken.write_text("this is no weight file")
    client.post(f"{SDAPI}/refresh-checkpoints")
    answer = generate(client, override_settings={"sd_model_checkpoint": "broken"})
    broken.unlink()
    client.post(f"{SDAPI}/refresh-checkpoints")
    assert answer.status_code == 422
    assert "broken" in answer.json()["detail"]
    assert generate(client).status_code == 200


def test_a_client_that_goes_away_cancels_its_job(engine):
    with server_of(engine) as server:
        port = int(server.url.split(":")[2].rstrip("/"))
        body = json.dumps(ENDLESS).encode()
        head = f"POST {SDAPI}/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection = socket.create_connection(("127.0.0.1", port), timeout=20)
        connection.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        job = wait_for(engine.current)
        connection.close()
        assert engine.wait(job.id, 20).state.value == "cancelled"


# progress, interrupt, skip


@pytest.fixture
def background(engine, client):
    """A long txt2img under way, as a function that waits for its answer."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(client.post(f"{SDAPI}/txt2img", json=ENDLESS)))
    thread.start()
    wait_for(lambda: (job := engine.current()) and job.step > 0)

    def answer():
        thread.join(20)
        assert not thread.is_alive()
        return answers[0]

    yield answer
    engine.cancel_current()
    thread.join(20)


def test_idle_is_a_progress_and_a_job_count_of_zero(client):
    answer = client.get(f"{SDAPI}/progress").json()
    assert (answer["progress"], answer["state"]["job_count"], answer["current_image"]) == (0, 0, None)
    assert answer.keys() == {"progress", "eta_relative", "state", "current_image", "textinfo"}


def test_progress_shows_the_running_job_and_interrupt_ends_it(engine, client, background):
    wait_for(lambda: engine.current().preview_version)
    answer = client.get(f"{SDAPI}/progress").json()
    assert 0 < answer["progress"] < 1
    assert answer["state"]["job_count"] == 1
    assert answer["state"]["sampling_steps"] == 1000
    assert 0 < answer["state"]["sampling_step"] < 1000
    assert base64.b64decode(answer["current_image"]).startswith(b"\xff\xd8")
    assert client.get(f"{SDAPI}/progress?skip_current_image=true").json()["current_image"] is None
    job_id = engine.current().id
    assert client.get(f"{SDAPI}/progress?job_id={job_id}").json()["state"]["job"] == job_id
    assert client.get(f"{SDAPI}/progress?job_id=nobody").status_code == 404
    assert client.post(f"{SDAPI}/interrupt").json() == {}
    answer = background()
    assert (answer.status_code, answer.json()["images"]) == (200, [])
    assert json.loads(answer.json()["info"])["job_id"] == job_id


def test_an_interrupted_job_answers_with_the_pictures_it_finished(engine, client):
    answers = []
    body = {"prompt": "a cat", "width": 64, "height": 64, "steps": 40, "n_iter": 64, "seed": 1}
    thread = threading.Thread(target=lambda: answers.append(client.post(f"{SDAPI}/txt2img", json=body)))
    thread.start()
    wait_for(lambda: (job := engine.current()) and job.images)
    assert client.post(f"{SDAPI}/skip").json()["error"] == "NotSupported"
    client.post(f"{SDAPI}/interrupt")
    thread.join(20)
    assert 1 <= len(answers[0].json()["images"]) < 64


def test_skip_ends_a_job_of_one_batch(client, background):
    assert client.post(f"{SDAPI}/skip").status_code == 200
    assert background().status_code == 200


def test_interrupting_nothing_does_nothing(client):
    assert client.post(f"{SDAPI}/interrupt").json() == {}


# options


def test_a_client_changes_one_option_by_sending_all_back(engine, client):
    options = client.get(f"{SDAPI}/options").json()
    assert options["sd_model_checkpoint"].startswith("tiny-0.safetensors")
    changed = options | {"sd_model_checkpoint": "tiny-1.safetensors"}
    assert client.post(f"{SDAPI}/options", json=changed).json() == {"ignored": []}
    try:
        assert client.get(f"{SDAPI}/options").json()["sd_model_checkpoint"].startswith("tiny-1.safetensors")
        assert engine.preferences.clip_skip is None  # sent back at 1, but not changed
        assert made(client)[1]["sd_model_name"] == "tiny-1"
    finally:
        engine.change_preferences(checkpoint=None)


def test_every_option_can_be_set_and_is_used(engine, client):
    wanted = {
        "CLIP_stop_at_last_layers": 2, "emphasis": "No norm", "randn_source": "CPU", "show_progress_every_n_steps": 5,
        "emulsion_exact_batches": True, "sd_vae": "None",
    }  # fmt: skip
    before = engine.preferences
    try:
        assert client.post(f"{SDAPI}/options", json=wanted).status_code == 200
        options = client.get(f"{SDAPI}/options").json()
        assert (wanted | {"sd_vae": "Automatic"}).items() <= options.items()
        assert engine.preferences.noise_source.casefold() == "cpu"
        client.post(f"{SDAPI}/options", json={"randn_source": "GPU"})
        assert client.get(f"{SDAPI}/options").json()["randn_source"] == "NV"
    finally:
        engine.change_preferences(
            clip_skip=before.clip_skip, emphasis=before.emphasis, noise_source=before.noise_source,
            preview_every=before.preview_every, exact_batches=before.exact_batches,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sd_model_checkpoint", "nobody"),
        ("sd_model_checkpoint", 5),
        ("sd_vae", "nobody"),
        ("CLIP_stop_at_last_layers", 0),
        ("CLIP_stop_at_last_layers", "2"),
        ("CLIP_stop_at_last_layers", True),
        ("emphasis", "nobody"),
        ("emphasis", None),
        ("randn_source", "nobody"),
        ("show_progress_every_n_steps", -1),
        ("emulsion_exact_batches", "yes"),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_changes_nothing(engine, client, name, value):
    before = engine.preferences
    answer = client.post(f"{SDAPI}/options", json={name: value, "show_progress_every_n_steps": 9} | {name: value})
    assert (answer.status_code, answer.json()["field"]) == (422, name)
    assert engine.preferences == before


@pytest.mark.parametrize(
    "name",
    ["listen", "port", "api_auth", "gradio_auth", "token", "outdir_samples", "samples_format", "disable_safe_unpickle"],
)
def test_what_concerns_safety_and_folders_cannot_be_set(engine, client, name):
    before = engine.preferences, engine.settings, client.get(f"{SDAPI}/options").json()
    assert client.post(f"{SDAPI}/options", json={name: "\r\n/tmp"}).json() == {"ignored": [name]}
    assert (engine.preferences, engine.settings, client.get(f"{SDAPI}/options").json()) == before


# listings and the rest


def test_lists_what_can_be_named(engine, client):
    models = client.get(f"{SDAPI}/sd-models").json()
    assert [model["model_name"] for model in models] == ["tiny-0", "tiny-1"]
    assert models[0].keys() == {"title", "model_name", "hash", "sha256", "filename", "config"}
    made(client)  # computes the hash of the first
    model = client.get(f"{SDAPI}/sd-models").json()[0]
    assert model["title"] == f"tiny-0.safetensors [{model['hash']}]"
    samplers = client.get(f"{SDAPI}/samplers").json()
    assert {"Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "DDIM", "LCM", "Heun"} <= {
        each["name"] for each in samplers
    }
    assert all(each.keys() == {"name", "aliases", "options"} for each in samplers)
    schedulers = client.get(f"{SDAPI}/schedulers").json()
    assert schedulers[0]["label"] == "Automatic"
    assert {"karras", "beta", "sgm_uniform"} <= {each["name"] for each in schedulers}
    assert client.get(f"{SDAPI}/sd-vae").json() == client.get(f"{SDAPI}/sd-modules").json() == []


def test_every_listed_sampler_and_scheduler_can_be_asked_for(client):
    for sampler in client.get(f"{SDAPI}/samplers").json():
        assert generate(client, sampler_name=sampler["name"], send_images=False).status_code == 200
    for scheduler in client.get(f"{SDAPI}/schedulers").json():
        assert generate(client, scheduler=scheduler["name"], send_images=False).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "loras", "embeddings", "hypernetworks", "face-restorers",
        "realesrgan-models", "prompt-styles", "scripts", "script-info", "extensions",
    ],
)  # fmt: skip
def test_what_there_is_none_of_is_an_empty_list(client, path):
    answer = client.get(f"{SDAPI}/{path}")
    assert answer.status_code == 200
    content = answer.json()
    assert content == [] or all(not each for each in content.values())


def test_memory_is_told_and_can_be_freed(engine, client):
    made(client)
    told = client.get(f"{SDAPI}/memory").json()
    assert 2**20 < told["ram"]["used"] < told["ram"]["total"]
    assert 0 < told["ram"]["free"] < told["ram"]["total"]
    assert told["cuda"] == {"error": "unavailable"}
    assert engine.memory().used > 0
    assert client.post(f"{SDAPI}/unload-checkpoint").json() == {}
    assert engine.memory().used == 0
    assert client.post(f"{SDAPI}/reload-checkpoint").json() == {}


def test_a_new_checkpoint_is_found_after_a_refresh(engine, client):
    folder = engine.settings.models_dir / "checkpoints"
    (folder / "tiny-2.safetensors").write_bytes((folder / "tiny-0.safetensors").read_bytes())
    assert client.post(f"{SDAPI}/refresh-checkpoints").json() == {}
    assert "tiny-2" in [model["model_name"] for model in client.get(f"{SDAPI}/sd-models").json()]
    (folder / "tiny-2.safetensors").unlink()
    client.post(f"{SDAPI}/refresh-checkpoints")


def test_flags_are_told_without_folders(engine, client):
    flags = client.get(f"{SDAPI}/cmd-flags")
    assert flags.json()["listen"] is False
    assert str(engine.settings.root) not in flags.text


def test_a_path_that_is_not_there_is_answered_in_the_same_form(client):
    answer = client.get(f"{SDAPI}/nothing")
    assert (answer.status_code, answer.json()["error"]) == (404, "NotFound")
    assert client.get(f"{SDAPI}/txt2img").status_code == 405


# png-info

TEXT = "a cat\nSteps: 2, Seed: 1, Size: 8x16"
PICTURE = encode_png(np.zeros((8, 8, 3), np.uint8), {"parameters": TEXT, "other": "x"})


@pytest.mark.parametrize("head", ["", "data:image/png;base64,", "data:;base64,"])
def test_png_info_reads_a_picture(client, head):
    answer = client.post(f"{SDAPI}/png-info", json={"image": head + base64.b64encode(PICTURE).decode()}).json()
    assert answer["info"] == TEXT
    assert answer["items"] == {"parameters": answer["info"], "other": "x"}
    expected = {"Prompt": "a cat", "Negative prompt": "", "Steps": "2", "Size-1": "8", "Size-2": "16"}
    assert expected.items() <= answer["parameters"].items()


def test_png_info_of_a_picture_without_text_is_empty(client):
    plain = base64.b64encode(encode_png(np.zeros((8, 8, 3), np.uint8), {})).decode()
    answer = client.post(f"{SDAPI}/png-info", json={"image": plain}).json()
    assert answer == {"info": "", "items": {}, "parameters": {}}


@pytest.mark.parametrize(
    ("image", "field"),
    [
        (None, "image"), (5, "image"), ("", "image"), ("%%%", "image"), ("http://127.0.0.1/a.png", "image"),
        ("HTTPS://evil.com/a.png", "image"), ("file:///etc/passwd", "image"), ("ü", "image"),
        (base64.b64encode(b"hello").decode(), ""), (base64.b64encode(PICTURE[:-20]).decode(), ""),
    ],
)  # fmt: skip
def test_png_info_refuses_what_is_no_picture_and_fetches_nothing(client, image, field, monkeypatch):
    connections = []
    monkeypatch.setattr(socket.socket, "connect", lambda *address: connections.append(address))
    answer = client.post(f"{SDAPI}/png-info", json={} if image is None else {"image": image})
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert connections == []
