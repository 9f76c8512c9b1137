"""/api/v1: jobs go in, their state comes out, and a stream tells what happens to them."""

from __future__ import annotations

import json
import time

import httpx
import pytest

from backend.http.security import Security
from backend.http.server import build_app
from tests.http_server import SMALL, client_of, engine_in, server_of

ENDLESS = {"prompt": "a cat", "width": 64, "height": 64, "steps": 1000}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with engine_in(tmp_path_factory.mktemp("jobs")) as engine:
        yield engine


@pytest.fixture(scope="module")
def client(engine):
    with client_of(build_app(engine, Security())) as client:
        yield client


def submit(client, **fields) -> str:
    answer = client.post("/api/v1/jobs", json={"prompt": "a cat", **SMALL, **fields})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def wait_for(what, seconds: float = 20):
    """What `what` returns once it is true."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return value


def test_a_job_goes_from_request_to_picture(engine, client):
    job_id = submit(client, seed=5, batch_count=2)
    engine.wait(job_id, 30)
    job = client.get(f"/api/v1/jobs/{job_id}").json()
    assert (job["state"], job["step"], job["steps"], job["error"]) == ("done", 4, 4, "")
    assert [image["seed"] for image in job["images"]] == [5, 6]
    assert job["request"]["seed"] == 5
    assert job["request"]["sampler"] is not None  # resolved
    for image in job["images"]:
        assert image["infotext"].startswith("a cat\nSteps: 2")
        answer = client.get("/" + image["url"])
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        assert answer.headers["x-content-type-options"] == "nosniff"
        small = client.get("/" + image["thumbnail"])
        assert (small.status_code, small.headers["content-type"]) == (200, "image/webp")


def test_all_jobs_are_listed_the_newest_last(engine, client):
    ids = [submit(client) for _ in range(2)]
    engine.wait(ids[-1], 30)
    assert [job["id"] for job in client.get("/api/v1/jobs").json()["jobs"]][-2:] == ids


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 1001}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": "20"}, "steps"),
        ({"width": 7}, "width"),
        ({"width": 0}, "width"),
        ({"height": 100_000}, "height"),
        ({"height": 65}, "height"),
        ({"width": 16384, "height": 16384}, "width"),
        ({"guidance_scale": 1e308}, "guidance_scale"),
        ({"guidance_scale": -1}, "guidance_scale"),
        ({"guidance_scale": False}, "guidance_scale"),
        ({"seed": -2}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 10**400}, "seed"),
        ({"batch_size": 65}, "batch_size"),
        ({"batch_size": 9, "batch_count": 9}, "batch_count"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "x" * 65_537}, "prompt"),
        ({"clip_skip": 13}, "clip_skip"),
        ({"exact_batches": 1}, "exact_batches"),
        ({"sampler": ["euler"]}, "sampler"),
        ({"strength": 1}, "strength"),
    ],
)
def test_a_wrong_field_is_refused_by_name(client, body, field):
    answer = client.post("/api/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert field in answer.json()["detail"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["guidance_scale", "steps", "seed", "width", "unknown"])
def test_numbers_that_are_none_are_refused_by_field(client, field, number):
    answer = client.post(
        "/api/v1/jobs", content=f'{{"{field}": {number}}}', headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["field"]) == (422, field)


@pytest.mark.parametrize("name", ["sampler", "schedule", "checkpoint", "vae", "emphasis", "noise_source"])
def test_an_unknown_name_is_refused(client, name):
    answer = client.post("/api/v1/jobs", json={name: "nobody"})
    assert (answer.status_code, answer.json()["error"]) == (422, "UnknownName")
    assert 'named "nobody"' in answer.json()["detail"]


@pytest.mark.parametrize("body", ["", "{", "[]", "5", "null", '"text"', "[" * 100_000, '{"a":' * 5000, "\xff"])
def test_a_body_that_is_no_object_is_refused(client, body):
    answer = client.post("/api/v1/jobs", content=body.encode("latin-1"), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (422, "RequestError")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_a_body_that_does_not_say_it_is_json_is_refused(client, kind):
    answer = client.post("/api/v1/jobs", content=b'{"prompt": "cat"}', headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["error"]) == (415, "NotJson")


@pytest.mark.parametrize("job_id", ["1", "0" * 16, "..", "%2e%2e", "x" * 5000])
def test_an_unknown_job_is_not_found(client, job_id):
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/preview.jpg")):
        assert client.request(method, f"/api/v1/jobs/{job_id}{path}").status_code in (404, 405)


def test_a_running_and_a_waiting_job_can_be_cancelled(engine, client):
    running, waiting = submit(client, **ENDLESS), submit(client)
    wait_for(lambda: engine.job(running).step > 0)
    assert client.delete(f"/api/v1/jobs/{waiting}").json()["state"] == "cancelled"
    client.delete(f"/api/v1/jobs/{running}")
    assert engine.wait(running, 20).state.value == "cancelled"
    assert client.delete(f"/api/v1/jobs/{running}").json()["state"] == "cancelled"
    after = submit(client)
    assert engine.wait(after, 30).state.value == "done"


def test_a_running_job_shows_previews(engine, client):
    job_id = submit(client, **ENDLESS)
    wait_for(lambda: engine.job(job_id).preview_version)
    job = client.get(f"/api/v1/jobs/{job_id}").json()
    answer = client.get("/" + job["preview"])
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert answer.content.startswith(b"\xff\xd8")
    engine.cancel(job_id)
    engine.wait(job_id, 20)
    assert client.get(f"/api/v1/jobs/{job_id}").json()["preview"] is None


def test_a_picture_that_was_deleted_disappears_from_its_job(engine, client):
    job_id = submit(client)
    engine.wait(job_id, 30).images[0].path.unlink()
    assert client.get(f"/api/v1/jobs/{job_id}").json()["images"] == []


# Events


class Stream:
    """The event stream of a server, message by message."""

    def __init__(self, url: str) -> None:
        self._context = httpx.stream("GET", f"{url}api/v1/events", timeout=20)
        answer = self._context.__enter__()
        assert answer.headers["content-type"].startswith("text/event-stream")
        self._lines = answer.iter_lines()

    def __iter__(self):
        return (json.loads(line[6:]) for line in self._lines if line.startswith("data: "))

    def close(self) -> None:
        self._context.__exit__(None, None, None)


@pytest.fixture
def server(engine):
    with server_of(engine) as server:
        yield server


def test_the_stream_begins_with_all_jobs_and_tells_a_new_one_to_its_end(engine, client, server):
    old = submit(client)
    engine.wait(old, 30)
    stream = Stream(server.url)
    messages = iter(stream)
    first = next(messages)
    assert first["is_complete"]
    assert first["jobs"][-1] == client.get(f"/api/v1/jobs/{old}").json()
    new = submit(client, batch_count=3)
    states = []
    for message in messages:
        assert not message["is_complete"]
        assert {job["id"] for job in message["jobs"]} == {new}
        states += [job["state"] for job in message["jobs"]]
        if states[-1] == "done":
            assert len(message["jobs"][0]["images"]) == 3
            break
    assert sorted(set(states)) in (["done"], ["done", "running"], ["done", "queued", "running"])
    stream.close()


def test_a_watcher_hears_at_most_ten_messages_a_second_and_a_late_one_is_up_to_date(engine, client, server):
    job_id = submit(client, **ENDLESS)
    wait_for(lambda: engine.job(job_id).step > 0)
    stream = Stream(server.url)
    start = time.monotonic()
    steps = []
    for message in stream:
        steps += [job["step"] for job in message["jobs"] if job["id"] == job_id]
        if len(steps) == 6 or engine.job(job_id).state.is_final:
            break
    assert time.monotonic() - start >= 0.1 * (len(steps) - 2)
    assert steps[0] >= 1
    assert steps == sorted(steps)
    engine.cancel(job_id)
    engine.wait(job_id, 20)
    stream.close()


def test_many_watchers_come_and_go(engine, client, server):
    streams = [Stream(server.url) for _ in range(12)]
    assert all(next(iter(stream))["is_complete"] for stream in streams)
    for stream in streams[:6]:
        stream.close()
    job_id = submit(client)
    for stream in streams[6:]:
        assert next(iter(stream))["jobs"][0]["id"] == job_id
        stream.close()
    engine.wait(job_id, 30)


def test_the_stream_ends_when_the_server_stops(engine):
    with server_of(engine) as server:
        stream = Stream(server.url)
        messages = iter(stream)
        next(messages)
        start = time.monotonic()
        server.stop()
        assert list(messages) == []
        assert time.monotonic() - start < 3
        stream.close()
