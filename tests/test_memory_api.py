"""/api/v1: what is in memory, whether a job would fit, the files of models, and preferences."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from backend.engine.engine import Engine
from backend.engine.preferences import Preferences
from backend.http.security import Security
from backend.http.server import build_app
from backend.request import GenerationRequest
from backend.weights.safetensors_file import write_safetensors
from tests.http_server import SMALL, client_of, engine_in
from tests.tiny_checkpoint import tiny_tensors, write_t5_header

API = "/api/v1"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine_in(tmp_path_factory.mktemp("memory"), checkpoints=2) as engine:
        yield engine


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[TestClient]:
    with client_of(build_app(engine, Security())) as client:
        yield client


def make_one(engine: Engine) -> None:
    engine.wait(engine.submit(GenerationRequest(prompt="a cat", **SMALL)), 60)


def test_memory_tells_what_is_held_and_what_the_last_job_took(engine, client):
    make_one(engine)
    report = client.get(f"{API}/memory").json()
    assert 0 < report["used"] <= report["budget"]
    labels = [part["label"] for part in report["held"]]
    assert all(any(part in label for label in labels) for part in ("U-Net", "text encoder", "autoencoder"))
    for part in report["held"]:
        assert part["total_bytes"] >= part["device_bytes"] >= 0
    assert {peak["stage"] for peak in report["peaks"]} >= {"sampling", "decoding"}
    assert all(peak["host_bytes"] > 2**20 and peak["device_bytes"] is None for peak in report["peaks"])
    assert (report["device"], report["is_host"]) == (engine.device.name, True)
    assert 2**20 < report["machine"]["process"] < report["machine"]["total"]


def test_everything_can_be_unloaded_and_the_next_job_loads_it_again(engine, client):
    make_one(engine)
    report = client.post(f"{API}/memory/unload", json={}).json()
    assert (report["used"], report["held"]) == (0, [])
    make_one(engine)
    assert client.get(f"{API}/memory").json()["used"] > 0


def test_a_small_job_fits_and_a_large_one_is_told_to_need_more(client):
    small = client.post(f"{API}/fit", json=SMALL).json()
    assert (small["fits"], small["streamed"], small["problem"]) == (True, 0, "")
    assert small["text"]
    assert 0 < small["weights"] + small["working"] <= small["budget"]
    large = client.post(f"{API}/fit", json={"width": 512, "height": 512, "batch_size": 8}).json()
    assert large["working"] > small["working"]
    assert large["weights"] == small["weights"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"width": 100}, "multiple of 8"),
        ({"checkpoint": "nobody"}, "nobody"),
        ({"refiner": "nobody"}, "nobody"),
        ({"text_encoders": ["nobody"]}, "nobody"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_job_that_would_be_refused_is_told_and_is_no_error(client, body, told):
    answer = client.post(f"{API}/fit", json=body)
    assert answer.status_code == 200
    assert answer.json()["fits"] is False
    assert told in answer.json()["problem"]


def test_asking_whether_a_job_fits_queues_and_loads_nothing(engine, client):
    client.post(f"{API}/memory/unload", json={})
    jobs = len(engine.jobs())
    client.post(f"{API}/fit", json=SMALL)
    assert len(engine.jobs()) == jobs
    assert engine.memory().used == 0


def test_files_of_models_are_listed_by_what_they_are(engine, client):
    folder = engine.settings.models_dir
    vae = {key: value for key, value in tiny_tensors().items() if key.startswith("first_stage_model.")}
    (folder / "vae").mkdir(exist_ok=True)
    write_safetensors(folder / "vae" / "other.safetensors", vae, {})
    write_t5_header(folder / "text_encoders" / "large.safetensors")
    assert client.post(f"{API}/models/refresh", json={}).json() == {"checkpoints": 2, "vaes": 1, "text_encoders": 1}
    assert client.get(f"{API}/vaes").json() == {"vaes": [{"name": "other", "latent_channels": 4}]}
    assert client.get(f"{API}/text-encoders").json() == {"text_encoders": [{"name": "large", "kind": "t5"}]}
    listed = client.get(f"{API}/checkpoints").json()["checkpoints"]
    assert [(entry["name"], entry["family"], entry["problem"]) for entry in listed] == [
        ("tiny-0", "sd1", ""),
        ("tiny-1", "sd1", ""),
    ]


def test_a_checkpoint_tells_how_it_is_used_and_what_it_holds(client):
    facts = client.get(f"{API}/checkpoints/tiny-1").json()
    assert (facts["native_size"], facts["size_step"], facts["has_vae"]) == (64, 8, True)
    assert facts["embedded"] == ["clip_l"]
    assert facts["defaults"]["steps"] == 20
    assert facts["modelspec_title"] == "Tiny random model"
    assert client.get(f"{API}/checkpoints/nobody").status_code == 404


def test_preferences_are_read_and_changed_by_name(engine, client):
    assert client.get(f"{API}/preferences").json().keys() == vars(Preferences()).keys()
    changed = client.post(f"{API}/preferences", json={"idle_unload_minutes": 2.5})
    assert changed.json()["idle_unload_minutes"] == 2.5
    assert engine.preferences.idle_unload_minutes == 2.5
    assert client.get(f"{API}/memory").json()["idle_unload_minutes"] == 2.5
    client.post(f"{API}/preferences", json={"idle_unload_minutes": 0})


@pytest.mark.parametrize("body", [{"idle_unload_minutes": -1}, {"idle_unload_minutes": "soon"}, {"self": 1}, {"x": 1}])
def test_a_preference_that_cannot_be_is_refused_by_name(client, body):
    answer = client.post(f"{API}/preferences", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, next(iter(body)))
