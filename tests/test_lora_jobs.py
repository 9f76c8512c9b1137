"""LoRAs that jobs write: out of two models, at another rank, and several as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from backend.adapters.lora_file import open_adapter
from backend.engine.engine import Engine
from backend.engine.job import JobState
from backend.engine.job_request import job_request_from, job_request_mapping
from backend.engine.lora_request import LoraExtraction, LoraMerge, LoraResize, LoraUse
from backend.errors import RequestError, UnknownName
from backend.http.security import Security
from backend.http.server import build_app
from backend.merging.lora_tools.rank_choice import RankBy, RankChoice
from backend.recipe import AdapterUse, CheckpointInput, FileRef, Recipe, WithAdapters
from tests.http_server import client_of
from tests.merging_engine import TIMEOUT, merging_engine, picture_request, run

FULL = RankChoice(by=RankBy.RANK, value=64)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with merging_engine(tmp_path) as engine:
        yield engine


def with_lora(name: str, strength: float = 1.0) -> Recipe:
    use = AdapterUse(file=FileRef(name=name), strength=strength)
    return Recipe(root=WithAdapters(model=CheckpointInput(file=FileRef(name="a")), adapters=(use,)))


def test_loras_are_extracted_resized_merged_and_used(engine: Engine) -> None:
    extracted = run(engine, LoraExtraction(tuned="b", base="a", name="difference", rank=FULL, conv_rank=FULL))
    assert (extracted.state, extracted.error) == (JobState.DONE, "")
    assert "rank" in extracted.notices[0]
    assert [entry.name for entry in engine.library.loras()] == ["difference"]
    resized = run(engine, LoraResize(lora="difference", name="small", rank=RankChoice(by=RankBy.RANK, value=2)))
    assert (resized.state, resized.error) == (JobState.DONE, "")
    merged = run(
        engine, LoraMerge(loras=(LoraUse(name="small"), LoraUse(name="difference", strength=0.5)), name="both")
    )
    assert (merged.state, merged.error) == (JobState.DONE, "")
    sizes = {name: open_adapter(engine.library.find_lora(name).path).num_bytes for name in ("small", "difference")}
    assert sizes["small"] < sizes["difference"]
    view = run(engine, picture_request(recipe=with_lora("difference")))
    assert (view.state, view.error) == (JobState.DONE, "")
    plain = run(engine, picture_request(checkpoint="a"))
    assert Image.open(view.images[0].path).tobytes() != Image.open(plain.images[0].path).tobytes()
    assert "a with difference" in view.images[0].infotext


def test_what_is_missing_is_refused_at_once(engine: Engine) -> None:
    with pytest.raises(UnknownName, match="no such"):
        engine.submit(LoraResize(lora="no such", name="small", rank=FULL))
    with pytest.raises(UnknownName, match="no such"):
        engine.submit(LoraExtraction(tuned="no such", base="a", name="x", rank=FULL))
    with pytest.raises(UnknownName, match="no such"):
        engine.submit(picture_request(recipe=with_lora("no such")))


def test_a_lora_of_a_name_is_not_replaced_unasked(engine: Engine) -> None:
    run(engine, LoraExtraction(tuned="b", base="a", name="difference", rank=FULL))
    with pytest.raises(RequestError, match="exists"):
        engine.submit(LoraExtraction(tuned="b", base="a", name="difference", rank=FULL))
    assert run(engine, LoraExtraction(tuned="b", base="a", name="difference", rank=FULL, replace=True)).error == ""


@pytest.mark.parametrize(
    "request_",
    [
        LoraExtraction(tuned="b", base="a", name="x", rank=FULL, conv_rank=RankChoice(by=RankBy.RATIO, value=20)),
        LoraResize(lora="x", name="y", rank=RankChoice(by=RankBy.FROBENIUS, value=0.9, largest=8), model="a"),
        LoraMerge(loras=(LoraUse(name="x", strength=0.5, text_encoder_strength=0.1),), name="z", rank=FULL),
        LoraMerge(loras=(LoraUse(name="x"),), name="z"),
    ],
    ids=lambda request_: type(request_).__name__,
)
def test_requests_come_back_from_the_journal_as_they_were(request_: LoraMerge | LoraExtraction | LoraResize) -> None:
    assert job_request_from(job_request_mapping(request_)) == request_


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("merge", {"name": "x"}, "loras"),
        ("merge", {"name": "x", "loras": [1]}, "loras"),
        ("merge", {"name": "x", "loras": [{"name": "y", "strength": "1"}]}, "strength"),
        ("extract", {"name": "x", "tuned": "a"}, "base"),
        ("extract", {"name": "x", "tuned": "a", "base": "b"}, "rank"),
        ("extract", {"name": "../x", "tuned": "a", "base": "b", "rank": 4}, "name"),
        ("resize", {"name": "x", "lora": "y", "rank": {"by": "?", "value": 1}}, "rank"),
        ("resize", {"name": "x", "lora": "y", "rank": 4, "more": 1}, "more"),
    ],
)
def test_bodies_are_checked(engine: Engine, path: str, body: dict[str, object], field: str) -> None:
    with client_of(build_app(engine, Security())) as client:
        answer = client.post(f"/api/v1/loras/{path}", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_an_extraction_over_http(engine: Engine) -> None:
    with client_of(build_app(engine, Security())) as client:
        body = {"tuned": "b", "base": "a", "name": "over/http", "rank": {"by": "rank", "value": 4}, "conv_rank": None}
        answer = client.post("/api/v1/loras/extract", json=body)
        assert (answer.status_code, answer.json()["kind"]) == (202, "lora_extract"), answer.text
        assert engine.wait(answer.json()["id"], TIMEOUT).error == ""
        assert [entry["name"] for entry in client.get("/api/v1/loras").json()["loras"]] == ["over/http"]
