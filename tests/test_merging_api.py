"""Merging over HTTP: what there is to choose, what would come of it, and jobs that save it."""

from __future__ import annotations

import pytest

from backend.http.security import Security
from backend.http.server import build_app
from tests.http_server import SMALL, client_of
from tests.merging_engine import half_of, merging_engine

RECIPE = half_of().to_mapping()


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with merging_engine(tmp_path_factory.mktemp("merging")) as engine:
        yield engine


@pytest.fixture(scope="module")
def client(engine):
    with client_of(build_app(engine, Security())) as client:
        yield client


def test_rules_are_told_with_their_formulas_and_numbers(client):
    told = client.get("/api/v1/merge/rules").json()
    rules = {rule["name"]: rule for rule in told["rules"]}
    assert {"lerp", "slerp", "add_difference"} <= rules.keys()
    assert all(rule["formula"] and rule["explanation"] for rule in rules.values())
    assert [parameter["name"] for parameter in rules["lerp"]["parameters"]] == ["alpha"]
    assert "none" in [entry["name"] for entry in told["normalisations"]]
    assert {"name": "fp16", "label": "16 bits (float16)"} in told["dtypes"]


def test_the_blocks_of_a_checkpoint_are_told_with_their_shares(client):
    layout = client.get("/api/v1/merge/layout", params={"checkpoint": "a"}).json()
    assert layout["family"] == "sd1"
    blocks = {block["name"]: block for block in layout["blocks"]}
    inside = [block["share"] for block in blocks.values() if block["group"] not in ("TE", "VAE")]
    assert sum(inside) == pytest.approx(1)
    assert "GRAD_V" in [preset["name"] for preset in layout["presets"]]
    assert client.get("/api/v1/merge/layout", params={"checkpoint": "no such"}).status_code == 422


def test_weights_by_block_are_read_from_text(client):
    body = {"checkpoint": "a", "text": "BASE=0.5, IN00=0.2"}
    read = client.post("/api/v1/merge/weights", json=body).json()["weights"]
    assert read["base"] == 0.5
    assert read["overrides"] == [{"value": 0.2, "blocks": ["IN00"]}]
    wrong = client.post("/api/v1/merge/weights", json={**body, "text": "NOWHERE=1"})
    assert (wrong.status_code, wrong.json()["error"]) == (422, "RequestError")
    assert client.post("/api/v1/merge/weights", json={**body, "reading": "?"}).json()["field"] == "reading"


def test_a_report_says_what_would_come_of_a_recipe(client):
    report = client.post("/api/v1/merge/report", json={"recipe": RECIPE}).json()
    assert (report["family"], report["dropped"], report["padded"]) == ("sd1", [], [])
    assert report["matched"] > 100
    assert len(report["hash"]) == 64


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "recipe"),
        ({"recipe": 1}, "recipe"),
        ({"recipe": {"root": {"type": "merge", "rule": "lerp", "models": []}}}, "recipe.root.models"),
        ({"recipe": RECIPE, "more": 1}, "more"),
    ],
)
def test_bodies_are_checked(client, body, field):
    answer = client.post("/api/v1/merge/report", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_a_recipe_generates_and_is_remembered(engine, client):
    answer = client.post("/api/v1/jobs", json={"prompt": "a cat", **SMALL, "recipe": RECIPE})
    assert answer.status_code == 202, answer.text
    assert engine.wait(answer.json()["id"], 60).error == ""
    job = client.get(f"/api/v1/jobs/{answer.json()['id']}").json()
    assert job["kind"] == "generation"
    assert job["request"]["recipe"]["root"]["rule"] == "lerp"
    newest = client.get("/api/v1/merge/history").json()[0]
    assert newest["recipe"]["root"]["rule"] == "lerp"


def test_a_merge_is_saved_by_a_job(engine, client):
    answer = client.post("/api/v1/merge/save", json={"recipe": RECIPE, "name": "made", "replace": False})
    assert (answer.status_code, answer.json()["kind"]) == (202, "merge")
    engine.wait(answer.json()["id"], 60)
    job = client.get(f"/api/v1/jobs/{answer.json()['id']}").json()
    assert (job["state"], job["error"]) == ("done", "")
    assert job["done_bytes"] == job["all_bytes"] > 0
    assert "made" in [entry["name"] for entry in client.get("/api/v1/checkpoints").json()["checkpoints"]]
    again = client.post("/api/v1/merge/save", json={"recipe": RECIPE, "name": "made", "replace": False})
    assert (again.status_code, again.json()["field"]) == (422, "name")


@pytest.mark.parametrize("name", ["", "../up", "/root", "a/../b", "con", "a:b", ".hidden"])
def test_a_merge_is_saved_nowhere_else(client, name):
    answer = client.post("/api/v1/merge/save", json={"recipe": RECIPE, "name": name})
    assert (answer.status_code, answer.json()["field"]) == (422, "name")


def test_recipes_are_kept_by_name(engine, client):
    stored = client.put("/api/v1/recipes/mixes/half", json={"recipe": RECIPE})
    assert (stored.status_code, stored.json()["name"]) == (200, "mixes/half"), stored.text
    assert [entry["name"] for entry in client.get("/api/v1/recipes").json()] == ["mixes/half"]
    assert any(model["model_name"] == "mixes/half" for model in client.get("/sdapi/v1/sd-models").json())
    body = {"prompt": "a cat", **SMALL, "override_settings": {"sd_model_checkpoint": "mixes/half"}}
    assert client.post("/sdapi/v1/txt2img", json=body).status_code == 200
    assert client.put("/api/v1/recipes/a", json={"recipe": RECIPE}).json()["field"] == "name"
    assert client.delete("/api/v1/recipes/mixes/half").status_code == 200
    assert client.delete("/api/v1/recipes/mixes/half").status_code == 404
    assert client.get("/api/v1/recipes").json() == []


def test_two_checkpoints_are_compared_block_by_block(client):
    answer = client.post("/api/v1/merge/compare", json={"a": "a", "b": "b"})
    found = {block["name"]: block for block in answer.json()["blocks"]}
    assert {"IN00", "M00", "OUT00", "VAE", "TE1", ""} <= found.keys()
    assert 0 < found["IN00"]["angle"] < 3.2
    assert found["IN00"]["distance"] > 0
    same = client.post("/api/v1/merge/compare", json={"a": "a", "b": "a"}).json()["blocks"]
    assert {(block["angle"], block["distance"]) for block in same} == {(0, 0)}
    refused = client.post("/api/v1/merge/compare", json={"a": "a", "b": "gone"})
    assert refused.status_code == 422
