"""LoRA files over HTTP: lists with facts, notes, previews, metadata, and names for hashes."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from backend.engine.job import JobState, JobView
from backend.http.security import Security
from backend.http.server import build_app
from backend.images.safe_open import open_image
from backend.request import GenerationRequest
from backend.weights.hashing import hashes_of_safetensors
from backend.weights.safetensors_file import write_safetensors
from tests.http_server import client_of
from tests.merging_engine import merging_engine, picture_request, run
from tests.tiny_adapters import KOHYA, sd1_lora

METADATA = {
    "ss_base_model_version": "sd_v1",
    "ss_output_name": "cat-v1",
    "modelspec.title": "A cat",
    "modelspec.trigger_phrase": "mycat",
    "ss_tag_frequency": json.dumps({"10_cat": {"cat": 7, "sitting": 2}, "5_more": {"cat": 1, "red": 5}}),
}


def picture_file(kind, size):
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, kind)
    return file.getvalue()


@pytest.fixture
def engine(tmp_path):
    with merging_engine(tmp_path) as engine:
        yield engine


@pytest.fixture
def loras(engine):
    """The folder, with one LoRA in a folder of its own."""
    folder = engine.settings.lora_dirs[0]
    write_safetensors(folder / "animals" / "cat.safetensors", sd1_lora(rank=2), METADATA)
    engine.library.refresh()
    return folder


@pytest.fixture
def client(engine):
    with client_of(build_app(engine, Security())) as client:
        yield client


def test_the_list_tells_what_headers_and_notes_say(client, loras):
    (loras / "animals" / "cat.json").write_text(json.dumps({"activation text": "a mycat", "preferred weight": 0.7}))
    (told,) = client.get("/api/v1/loras").json()["loras"]
    status = (loras / "animals" / "cat.safetensors").stat()
    assert told == {
        "name": "animals/cat",
        "folder": "animals",
        "file": "cat.safetensors",
        "alias": "cat-v1",
        "title": "A cat",
        "family": "sd1",
        "family_label": "Stable Diffusion 1.x",
        "problem": "",
        "size": status.st_size,
        "modified": status.st_mtime,
        "sha256": None,
        "autov3": None,
        "formats": ["LoRA"],
        "rank": [2, 2],
        "preview": None,
        "description": "",
        "activation_text": "a mycat",
        "negative_text": "",
        "preferred_weight": 0.7,
        "notes": "",
        "sd_version": "",
        "trained_tags": [["cat", 8], ["red", 5], ["sitting", 2]],
    }


def put(client, route, **body):
    return client.put(f"/api/v1/loras/{route}", json={"name": "animals/cat", **body})


def test_details_hold_all_metadata(client, loras):
    told = client.get("/api/v1/loras/details", params={"name": "cat"}).json()
    assert (told["name"], told["metadata"]) == ("animals/cat", METADATA)
    missing = client.get("/api/v1/loras/details", params={"name": "dog"})
    assert (missing.status_code, missing.json()["error"]) == (422, "UnknownName")


def test_a_name_of_two_files_lists_both(client, engine, loras):
    write_safetensors(loras / "other" / "cat.safetensors", sd1_lora(seed=1))
    client.post("/api/v1/models/refresh", json={})
    answer = client.get("/api/v1/loras/details", params={"name": "cat"})
    assert (answer.status_code, answer.json()["error"]) == (422, "AmbiguousName")
    assert "animals/cat, other/cat" in answer.json()["detail"]


def test_a_report_tells_what_fits_a_checkpoint(client, loras):
    told = client.get("/api/v1/loras/report", params={"name": "animals/cat", "checkpoint": "a"}).json()
    assert (told["family"], told["trained_for"], told["total"]) == ("sd1", "sd1", 4)
    assert sum(matched for matched, _ in told["components"].values()) == told["matched"] < 4
    assert {found["module"] for found in told["unmatched"]} <= set(KOHYA.values())
    assert all(found["reason"] for found in told["unmatched"])
    assert (told["formats"], told["ranks"], told["alphas"]) == ({"LoRA": 4}, [2, 2], [1.0, 1.0])
    assert told["problem"]
    unknown = client.get("/api/v1/loras/report", params={"name": "animals/cat", "checkpoint": "none"})
    assert unknown.json()["error"] == "UnknownName"


def test_a_file_that_is_no_lora_is_listed_and_its_report_is_refused(client, engine, loras):
    (loras / "half.safetensors").write_bytes((loras / "animals" / "cat.safetensors").read_bytes()[:-1])
    engine.library.refresh_loras()
    half = {entry["name"]: entry for entry in client.get("/api/v1/loras").json()["loras"]}["half"]
    assert "cut off" in half["problem"]
    assert (half["formats"], half["family"], half["rank"]) == ([], "", None)
    assert client.get("/api/v1/loras/details", params={"name": "half"}).json()["metadata"] == {}
    answer = client.get("/api/v1/loras/report", params={"name": "half", "checkpoint": "a"})
    assert (answer.status_code, answer.json()["error"]) == (422, "BadCheckpoint")


def test_notes_are_written_beside_the_file_and_foreign_ones_stay(client, loras):
    sidecar = loras / "animals" / "cat.json"
    sidecar.write_text(json.dumps({"vae": "x", "description": "old"}))
    told = put(client, "notes", description="new", preferred_weight=0.8, negative_text="dog", notes="mine").json()
    assert (told["description"], told["preferred_weight"], told["negative_text"]) == ("new", 0.8, "dog")
    assert told["activation_text"] == "mycat"  # what nobody wrote is what the file says
    assert json.loads(sidecar.read_text()) == {
        "vae": "x", "description": "new", "preferred weight": 0.8, "negative text": "dog", "notes": "mine",
    }  # fmt: skip
    assert put(client, "notes", activation_text="").json()["activation_text"] == ""


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"description": 5}, "description"),
        ({"preferred_weight": "a"}, "preferred_weight"),
        ({"preferred_weight": 1e9}, "preferred_weight"),
        ({"notes": "x" * 70_000}, "notes"),
        ({"other": "x"}, "other"),
        ({"name": 5}, "name"),
    ],
)
def test_wrong_notes_are_refused(client, loras, body, field):
    answer = put(client, "notes", **body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert not (loras / "animals" / "cat.json").exists()


@pytest.mark.parametrize("content", ["[]", "{", "x", ""])
def test_a_file_of_another_kind_is_not_written_over(client, loras, content):
    (loras / "animals" / "cat.json").write_text(content)
    assert client.get("/api/v1/loras").json()["loras"][0]["notes"] == ""
    answer = put(client, "notes", notes="mine")
    assert (answer.status_code, answer.json()["error"]) == (422, "BadCheckpoint")
    assert (loras / "animals" / "cat.json").read_text() == content


def test_metadata_are_edited_in_the_file(client, engine, loras):
    entry = engine.library.find_lora("cat")
    before = engine.library.lora_hash(entry)
    told = put(client, "metadata", metadata={"modelspec.title": "Another", "ss_tag_frequency": None}).json()
    assert (told["title"], told["trained_tags"], told["autov3"]) == ("Another", [], before)
    assert told["metadata"] == {key: METADATA[key] for key in METADATA if key != "ss_tag_frequency"} | {
        "modelspec.title": "Another"
    }
    assert engine.library.lora_hash(entry) == before == hashes_of_safetensors(entry.path)[1]


@pytest.mark.parametrize("metadata", [None, {}, [], {"a": 1}, {"a": {"b": "c"}}, {"": "x"}, {"a": "x" * 17 * 2**20}])
def test_wrong_metadata_are_refused(client, loras, metadata):
    before = (loras / "animals" / "cat.safetensors").read_bytes()
    answer = put(client, "metadata", metadata=metadata)
    assert (answer.status_code, answer.json()["error"]) == (422, "RequestError")
    assert answer.json()["field"].startswith("metadata")
    assert (loras / "animals" / "cat.safetensors").read_bytes() == before


def test_metadata_of_a_file_that_a_running_job_may_use_stay(client, engine, loras, monkeypatch):
    running = JobView(id="1", state=JobState.RUNNING, request=GenerationRequest(prompt="<lora:cat:1>", seed=1))
    monkeypatch.setattr(engine, "current", lambda: running)
    assert "in use" in put(client, "metadata", metadata={"a": "b"}).json()["detail"]
    other = JobView(id="1", state=JobState.RUNNING, request=GenerationRequest(prompt="a dog", seed=1))
    monkeypatch.setattr(engine, "current", lambda: other)
    assert put(client, "metadata", metadata={"a": "b"}).status_code == 200


def test_a_finished_picture_becomes_the_preview(client, engine, loras):
    assert client.get("/api/v1/loras/preview", params={"name": "cat"}).status_code == 404
    job = run(engine, picture_request(checkpoint="a", width=64, height=64))
    assert job.state is JobState.DONE
    told = put(client, "preview", job=job.id, index=0).json()
    preview = loras / "animals" / "cat.preview.png"
    assert preview.read_bytes() == job.images[0].path.read_bytes()
    picture = client.get(f"/{told['preview']}")
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/webp")
    assert open_image(picture.content).size == (64, 64)
    assert "default-src 'none'" in picture.headers["content-security-policy"]
    again = client.get(f"/{told['preview']}", headers={"If-None-Match": picture.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    preview.rename(loras / "animals" / "cat.png")  # as A1111 writes it, and shows it first
    put(client, "preview", job=job.id, index=0)
    assert not preview.exists()
    for body in ({"index": 1}, {"index": -1}, {"index": True}, {"index": "0"}):
        assert put(client, "preview", job=job.id, **body).json()["field"] == "index"
    assert put(client, "preview", job="none", index=0).json()["error"] == "UnknownName"
    job.images[0].path.unlink()
    assert put(client, "preview", job=job.id, index=0).json()["field"] == "index"


def test_the_picture_in_a_header_is_a_preview_that_a_file_beside_it_hides(client, engine, loras):
    url = "data:image/jpeg;base64," + base64.b64encode(picture_file("JPEG", (700, 350))).decode()
    put(client, "metadata", metadata={"modelspec.thumbnail": url})
    shown = client.get(f"/{client.get('/api/v1/loras').json()['loras'][0]['preview']}")
    assert open_image(shown.content).size == (512, 256)
    (loras / "animals" / "cat.webp").write_bytes(picture_file("WEBP", (30, 20)))
    beside = client.get("/api/v1/loras/preview", params={"name": "cat"})
    assert open_image(beside.content).size == (30, 20)
    assert beside.headers["etag"] != shown.headers["etag"]


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,####",
        "data:image/png;base64,aGVsbG8=",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "data:image/png,plain",
        "data:image/png;base64,",
    ],
)
def test_what_is_no_picture_in_a_header_is_not_sent(client, loras, url):
    put(client, "metadata", metadata={"modelspec.thumbnail": url})
    answer = client.get("/api/v1/loras/preview", params={"name": "cat"})
    assert (answer.status_code, answer.json()["error"]) == (404, "NotFound")


def test_a_hash_finds_its_file_whatever_it_is_called(client, engine, loras):
    write_safetensors(loras / "renamed.safetensors", sd1_lora(seed=3), {"a": "b"})
    engine.library.refresh_loras()
    file, tensors = hashes_of_safetensors(loras / "renamed.safetensors")
    for digits in (tensors[:12], file[:10], tensors, tensors[:12].upper(), f"#{tensors[:8]}"):
        assert client.post("/api/v1/loras/find", json={"hash": digits}).json() == {"name": "renamed"}
    for digits in ("0" * 12, "", "xyz", tensors[:7]):
        answer = client.post("/api/v1/loras/find", json={"hash": digits})
        assert (answer.status_code, answer.json()["error"]) == (422, "UnknownName")
    told = {entry["name"]: entry for entry in client.get("/api/v1/loras").json()["loras"]}
    assert (told["renamed"]["sha256"], told["renamed"]["autov3"]) == (file, tensors)


def test_block_weights_are_read_for_a_checkpoint(client):
    body = {"text": "OUTALL", "elemental": "", "checkpoint": "a"}
    weights = client.post("/api/v1/loras/block-weights", json=body).json()["weights"]
    assert weights["base"] == 1.0
    assert {override["value"] for override in weights["overrides"]} <= {0.0, 1.0}
    wrong = client.post("/api/v1/loras/block-weights", json={**body, "text": "1,2,3"})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "weights")
    assert client.post("/api/v1/loras/block-weights", json={"text": "ALL"}).json()["field"] == "checkpoint"


def test_presets_are_those_that_can_be_read_for_a_checkpoint(client):
    told = client.get("/api/v1/loras/block-presets", params={"checkpoint": "a"}).json()
    assert {17, 26, len(told["blocks"])} <= set(told["lengths"])
    assert told["blocks"][0] == "BASE"
    names = [preset["name"] for preset in told["presets"]]
    assert "OUTALL" in names
    assert "FLUXALL" not in names
    for preset in told["presets"]:
        body = {"text": preset["name"], "elemental": "", "checkpoint": "a"}
        assert client.post("/api/v1/loras/block-weights", json=body).status_code == 200
        assert len(preset["values"]) in told["lengths"]


def test_pages_of_other_sites_can_neither_read_nor_change_anything(client, loras):
    foreign = {"Origin": "https://example.org", "Sec-Fetch-Site": "cross-site"}
    body = {"name": "animals/cat", "notes": "x", "metadata": {"a": "b"}}
    assert client.get("/api/v1/loras", headers=foreign).status_code == 403
    for route in ("notes", "metadata", "preview"):
        assert client.put(f"/api/v1/loras/{route}", json=body, headers=foreign).status_code == 403
        form = client.put(f"/api/v1/loras/{route}", content=json.dumps(body), headers={"Content-Type": "text/plain"})
        assert form.status_code == 415
    assert not (loras / "animals" / "cat.json").exists()


def test_a1111s_clients_get_loras(client, loras):
    (told,) = client.get("/sdapi/v1/loras").json()
    tags = json.loads(METADATA["ss_tag_frequency"])
    assert told == {
        "name": "cat",
        "alias": "cat-v1",
        "path": "animals/cat.safetensors",
        "metadata": {**METADATA, "ss_tag_frequency": tags},
    }
    write_safetensors(loras / "cat.safetensors", sd1_lora(seed=3))
    (loras / "broken.safetensors").write_bytes(b"")
    assert client.post("/sdapi/v1/refresh-loras").json() == {}
    assert [entry["name"] for entry in client.get("/sdapi/v1/loras").json()] == ["animals/cat", "cat"]
