"""Stored pictures: byte for byte what came, found by their hashes, and nothing that is no picture; also over HTTP."""

from __future__ import annotations

import hashlib
import io
import os
import threading

import pytest
from PIL import Image

from backend.engine.picture_store import PictureStore, hashes_in
from backend.errors import BadImage, UnknownName, UnknownPicture
from backend.http.security import Security
from backend.http.server import build_app
from backend.images.safe_open import MAX_BYTES
from backend.request import GenerationRequest
from tests.http_server import SMALL, client_of, engine_in

PICTURES = "/api/v1/pictures"


def file_of(kind: str = "PNG", size: tuple[int, int] = (24, 16), color: tuple[int, int, int] = (9, 99, 199)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, kind)
    return file.getvalue()


@pytest.fixture
def store(tmp_path):
    return PictureStore(tmp_path / "pictures")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_file_comes_back_byte_for_byte_under_its_hash(store, kind):
    data = file_of(kind)
    stored = store.add(data)
    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    assert (stored.width, stored.height, stored.has_alpha) == (24, 16, False)
    assert store.data(stored.sha256) == data
    assert store.open(stored.sha256).size == (24, 16)
    path = store.path(stored.sha256)
    assert (path.name, path.parent.name) == (stored.sha256, stored.sha256[:2])


def test_adding_twice_keeps_one_file_and_untouched_bytes(store):
    first, again = store.add(file_of()), store.add(file_of())
    assert first == again
    assert store.size().pictures == 1
    assert store.size().num_bytes == len(file_of())


def test_a_store_that_is_opened_again_knows_its_pictures(store, tmp_path):
    stored = store.add(file_of())
    assert PictureStore(tmp_path / "pictures").describe(stored.sha256) == stored


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", file_of()[:60], b"<svg/>" * 50, b"\x89PNG" + bytes(100)],
    ids=["empty", "gif", "truncated", "svg", "zeros"],
)  # fmt: skip
def test_what_is_no_picture_is_refused_and_leaves_nothing(store, data):
    with pytest.raises(BadImage, match=r"mask\.png"):
        store.add(data, "mask.png")
    assert store.size().pictures == 0


def test_too_large_a_file_is_refused_before_it_is_read(store):
    with pytest.raises(BadImage, match="64 are accepted"):
        store.add(bytes(MAX_BYTES + 1))


@pytest.mark.parametrize("name", ["", "ab", "0" * 64, "../" * 21 + "a", "A" * 64, "0" * 63 + "/"])
def test_unknown_names_are_refused_whatever_they_look_like(store, name):
    for ask in (store.path, store.data, store.open, store.describe):
        with pytest.raises(UnknownPicture):
            ask(name)
    with pytest.raises(UnknownName) as caught:
        store.require([name])
    assert (caught.value.kind, caught.value.name) == ("picture", name)


def test_requiring_what_is_there_passes(store):
    store.require([store.add(file_of()).sha256])
    store.require([])


def test_a_file_that_was_changed_on_the_disk_is_told_and_mended_by_adding_it_again(store):
    data = file_of()
    stored = store.add(data)
    store.path(stored.sha256).write_bytes(data[:-1] + b"x")
    with pytest.raises(BadImage, match="damaged"):
        store.data(stored.sha256)
    store.add(data)
    assert store.data(stored.sha256) == data


def test_many_threads_can_add_the_same_file(store):
    data = file_of(size=(300, 300))
    failures: list[BaseException] = []

    def add() -> None:
        try:
            store.add(data)
        except BaseException as error:  # shown below
            failures.append(error)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.size().pictures == 1


def test_removes_what_nobody_uses_but_not_what_has_just_come(store):
    used, old, fresh = (store.add(file_of(color=(number, 0, 0))).sha256 for number in range(3))
    for sha256 in (used, old):
        os.utime(store.path(sha256), (1, 1))
    removed = store.remove_unused([used])
    assert (removed.pictures, store.size().pictures) == (1, 2)
    store.require([used, fresh])
    with pytest.raises(UnknownPicture):
        store.path(old)


def test_adding_a_picture_again_makes_it_fresh(store):
    sha256 = store.add(file_of()).sha256
    os.utime(store.path(sha256), (1, 1))
    store.add(file_of())
    assert store.remove_unused([]).pictures == 0


def test_a_picture_that_a_job_needs_is_not_removed_meanwhile(store):
    sha256 = store.add(file_of()).sha256
    os.utime(store.path(sha256), (1, 1))
    store.require([sha256])
    assert store.remove_unused([]).pictures == 0


def test_transparency_and_orientation_are_told_as_the_picture_is_seen(store):
    file = io.BytesIO()
    Image.new("RGBA", (24, 16), (9, 99, 199, 50)).save(file, "PNG")
    assert store.add(file.getvalue()).has_alpha
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # held upright: turned by a quarter
    Image.new("RGB", (24, 16)).save(file, "JPEG", exif=exif)
    turned = store.add(file.getvalue())
    assert (turned.width, turned.height, turned.has_alpha) == (16, 24, False)
    assert store.open(turned.sha256).size == (16, 24)


def test_hashes_are_found_wherever_a_request_has_them():
    a, b = "a" * 64, "b" * 64
    request = GenerationRequest.from_mapping({"init": {"picture": a, "mask": {"picture": b}}, "prompt": "c" * 63})
    assert {*hashes_in(request.to_mapping())} == {a, b}


def test_a_request_names_its_pictures_and_nothing_else():
    a, b, c, d = (letter * 64 for letter in "abcd")
    request = GenerationRequest.from_mapping(
        {
            "prompt": d,
            "checkpoint": d,
            "init": {"picture": a, "mask": {"picture": b}},
            "detailers": [{"mask": c}, {"mask": d, "is_on": False}, {"detector": d}],
        }
    )
    assert request.pictures == (a, b, c)
    assert GenerationRequest(prompt=d).pictures == ()


# Over HTTP


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with engine_in(tmp_path_factory.mktemp("pictures")) as engine:
        yield engine


@pytest.fixture(scope="module")
def client(engine):
    with client_of(build_app(engine, Security())) as client:
        yield client


def upload(client, data: bytes):
    return client.post(PICTURES, content=data, headers={"Content-Type": "application/octet-stream"})


@pytest.mark.parametrize(("kind", "mime"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")])
def test_an_uploaded_file_can_be_fetched_again(client, kind, mime):
    data = file_of(kind)
    answer = upload(client, data)
    assert answer.status_code == 200
    facts = answer.json()
    assert (facts["width"], facts["height"], facts["has_alpha"]) == (24, 16, False)
    assert facts["sha256"] == hashlib.sha256(data).hexdigest()
    fetched = client.get(f"/{facts['url']}")
    assert fetched.content == data
    assert fetched.headers["content-type"] == mime
    assert "sandbox" in fetched.headers["content-security-policy"]
    assert "immutable" in fetched.headers["cache-control"]
    assert client.get(f"/{facts['url']}/facts").json() == facts
    small = client.get(f"/{facts['thumbnail']}")
    assert (small.headers["content-type"], Image.open(io.BytesIO(small.content)).size) == ("image/webp", (24, 16))


def test_a_form_can_hold_the_file(client, engine):
    data = file_of(color=(1, 2, 3))
    answer = client.post(PICTURES, files={"file": ("cat.png", data, "image/png")}, data={"note": "x"})
    assert answer.json()["sha256"] == hashlib.sha256(data).hexdigest()
    bad = client.post(PICTURES, files={"file": ("cat.png", b"nothing", "image/png")})
    assert (bad.status_code, bad.json()["error"]) == (422, "BadImage")
    assert "cat.png" in bad.json()["detail"]
    none = client.post(PICTURES, files={"x": (None, "text")})
    assert (none.status_code, none.json()["field"]) == (422, "file")


@pytest.mark.parametrize("data", [b"", b"<html>", file_of()[:-20]], ids=["empty", "page", "truncated"])
def test_bad_files_are_refused_with_a_typed_error(client, data):
    answer = upload(client, data)
    assert (answer.status_code, answer.json()["error"]) == (422, "BadImage")


def test_a_file_of_more_than_64_mib_is_refused(client):
    answer = upload(client, bytes(MAX_BYTES + 1))
    assert (answer.status_code, answer.json()["error"]) == (422, "BadImage")
    assert "64 are accepted" in answer.json()["detail"]


def test_a_form_that_is_none_is_refused(client):
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = client.post(PICTURES, content=file_of(), headers={"Content-Type": kind})
        assert 400 <= answer.status_code < 500
        assert answer.json()["error"]


def test_unknown_pictures_are_404(client):
    for tail in ("", "/facts", "/thumb"):
        answer = client.get(f"{PICTURES}/{'0' * 64}{tail}")
        assert (answer.status_code, answer.json()["error"]) == (404, "NotFound")


def test_a_page_elsewhere_cannot_upload(client):
    answer = client.post(PICTURES, content=file_of(), headers={"Origin": "https://elsewhere.example"})
    assert answer.status_code == 403


def test_a_picture_that_was_made_here_is_taken_by_its_address(client, engine):
    job = engine.wait(engine.submit(GenerationRequest(prompt="a cat", seed=1, **SMALL)), 60)
    relative = job.images[0].path.relative_to(engine.settings.output_dir).as_posix()
    data = job.images[0].path.read_bytes()
    for url in (
        f"outputs/{relative}",
        f"/outputs/{relative}?v=1",
        f"outputs/thumb/{relative}",
        f"http://127.0.0.1:7860/outputs/{relative}",
        f"/behind/proxy/outputs/{relative}",
    ):
        answer = client.post(f"{PICTURES}/from-output", json={"url": url})
        assert answer.status_code == 200, answer.text
        assert answer.json()["sha256"] == hashlib.sha256(data).hexdigest()
    assert job.images[0].path.read_bytes() == data


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("outputs/none.png", 404),
        ("outputs/../data/preferences.json", 404),
        ("outputs/%2e%2e/secret.png", 404),
        ("https://elsewhere.example/outputs/a.png", 422),
        ("file:///outputs/a.png", 422),
        ("http://[/outputs/a.png", 422),
        ("a.png", 422),
        ("", 422),
        (None, 422),
        (3, 422),
    ],
)
def test_addresses_of_anything_else_are_refused(client, url, status):
    answer = client.post(f"{PICTURES}/from-output", json={"url": url})
    assert answer.status_code == status
    assert status == 404 or answer.json()["field"] == "url"


def test_a_job_without_its_picture_is_refused_before_it_is_queued(client, engine):
    before = len(engine.jobs())
    answer = client.post("/api/v1/jobs", json={"prompt": "a cat", "init": {"picture": "0" * 64}, **SMALL})
    assert (answer.status_code, answer.json()["error"]) == (422, "UnknownPicture")
    assert len(engine.jobs()) == before
    entry = engine.checkpoint()
    by_hash = GenerationRequest(prompt="0" * 64, checkpoint=engine.library.hash(entry).sha256, seed=1, **SMALL)
    assert engine.plan(by_hash).model.checkpoint == entry.name


def test_unused_pictures_can_be_removed(client, engine):
    sha256 = upload(client, file_of(color=(77, 0, 0))).json()["sha256"]
    os.utime(engine.pictures.path(sha256), (1, 1))
    before = client.get(PICTURES).json()
    assert before["pictures"] > 1
    answer = client.post(f"{PICTURES}/remove-unused").json()
    assert answer["removed"]["pictures"] == 1
    assert answer["left"] == client.get(PICTURES).json()
    assert client.get(f"{PICTURES}/{sha256}").status_code == 404
