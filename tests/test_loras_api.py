"""LoRA files over HTTP: lists with facts, notes, previews, metadata, and names for hashes."""

from __future__ import annotations

import json

import pytest

from backend.http.security import Security
from backend.http.server import build_app
from backend.weights.safetensors_file import write_safetensors
from tests.http_server import client_of
from tests.merging_engine import merging_engine
from tests.tiny_adapters import sd1_lora

METADATA = {
    "ss_base_model_version": "sd_v1",
    "ss_output_name": "cat-v1",
    "modelspec.title": "A cat",
    "modelspec.trigger_phrase": "mycat",
    "ss_tag_frequency": json.dumps({"10_cat": {"cat": 7, "sitting": 2}, "5_more": {"cat": 1, "red": 5}}),
}


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
