"""Upscaling over both HTTP interfaces."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from backend.engine.engine import Engine
from backend.engine.settings import Settings
from backend.http.security import Security
from backend.http.server import build_app
from backend.images.png_text import encode_png, read_png_text
from tests.http_server import client_of
from tests.upscaler_files import compact, write_upscaler

API, SDAPI = "/api/v1", "/sdapi/v1"
TIMEOUT = 60
INFOTEXT = "a cat\nSteps: 5, Sampler: Euler, Seed: 77, Size: 20x14"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("program")
    write_upscaler(folder / "models" / "upscalers" / "anime" / "2x-repeats.safetensors", compact(scale=2, size=0))
    (folder / "models" / "upscalers" / "broken.safetensors").write_bytes(b"nothing")
    engine = Engine.open(Settings.for_root(folder, force_cpu=True, memory_budget=2**30), persistent=False)
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture
def client(engine: Engine) -> Iterator[httpx.Client]:
    with client_of(build_app(engine, Security())) as client:
        yield client


def photo(seed: int = 1) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (14, 20, 3), dtype=np.uint8))


def file_of(image: Image.Image, **texts: str) -> bytes:
    return encode_png(np.asarray(image), texts)


def packed(image: Image.Image, **texts: str) -> str:
    return base64.b64encode(file_of(image, **texts)).decode()


def unpacked(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def larger(image: Image.Image, width: int, height: int, by: Image.Resampling) -> bytes:
    return image.resize((width, height), by).tobytes()


def test_upscalers_are_listed_with_their_problems(client: httpx.Client) -> None:
    listed = client.get(f"{API}/upscalers").json()
    entries = {entry["name"]: entry for entry in listed["upscalers"]}
    assert listed["default"] == "anime/2x-repeats"
    assert entries["lanczos"] == {
        "name": "lanczos", "label": "Lanczos", "scale": 0, "kind": "resampling", "file": None, "problem": "",
    }  # fmt: skip
    assert (entries["anime/2x-repeats"]["scale"], entries["anime/2x-repeats"]["kind"]) == (2, "network")
    assert "broken.safetensors" in entries["broken"]["problem"]
    assert client.post(f"{API}/upscalers/refresh", json={}).json() == listed
    assert client.get(f"{API}/upscalers/details", params={"name": "2x-repeats"}).json()["label"] == "RealESRGAN compact"
    assert client.get(f"{API}/upscalers/details", params={"name": "broken"}).status_code == 422


def test_a_job_over_http(engine: Engine, client: httpx.Client) -> None:
    picture = engine.pictures.add(file_of(photo())).sha256
    answer = client.post(f"{API}/upscale", json={"pictures": [picture], "scale": 2, "upscaler": "2x-repeats"})
    assert (answer.status_code, answer.json()["kind"]) == (202, "upscale"), answer.text
    assert answer.json()["request"]["upscaler"] == "anime/2x-repeats"
    assert engine.wait(answer.json()["id"], TIMEOUT).error == ""
    job = client.get(f"{API}/jobs/{answer.json()['id']}").json()
    file = client.get(f"/{job['images'][0]['url']}").content
    assert Image.open(io.BytesIO(file)).tobytes() == larger(photo(), 40, 28, Image.Resampling.NEAREST)


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "pictures"), ({"pictures": ["x"]}, "pictures"), ({"pictures": ["a" * 64], "scale": 99}, "scale")],
)
def test_bodies_are_checked(client: httpx.Client, body: dict[str, Any], field: str) -> None:
    answer = client.post(f"{API}/upscale", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_an_unknown_picture_is_told(client: httpx.Client) -> None:
    answer = client.post(f"{API}/upscale", json={"pictures": ["a" * 64]})
    assert (answer.status_code, answer.json()["error"]) == (422, "UnknownPicture")


def test_a1111s_clients_see_the_upscalers(client: httpx.Client) -> None:
    entries = client.get(f"{SDAPI}/upscalers").json()
    assert [entry["name"] for entry in entries] == [
        "None", "Lanczos", "Bicubic", "Bilinear", "Nearest", "anime/2x-repeats",
    ]  # fmt: skip
    assert entries[-1] == {
        "name": "anime/2x-repeats", "model_name": "anime/2x-repeats", "model_path": "anime/2x-repeats.safetensors",
        "model_url": None, "scale": 2,
    }  # fmt: skip
    assert all(set(entry) == set(entries[0]) for entry in entries)
    assert client.get(f"{SDAPI}/realesrgan-models").json() == [
        {"name": "anime/2x-repeats", "path": "anime/2x-repeats.safetensors", "scale": 2}
    ]


def test_one_picture_of_a1111s_clients_is_enlarged_by_two_and_not_kept(engine: Engine, client: httpx.Client) -> None:
    body = {"image": packed(photo(), parameters=INFOTEXT), "upscaler_1": "Nearest", "show_extras_results": True}
    answer = client.post(f"{SDAPI}/extra-single-image", json=body)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"html_info", "image"}
    image = unpacked(answer.json()["image"])
    assert image.tobytes() == larger(photo(), 40, 28, Image.Resampling.NEAREST)
    texts = read_png_text(base64.b64decode(answer.json()["image"]))
    assert texts["parameters"] == f"{INFOTEXT}, Postprocess upscale by: 2, Postprocess upscaler: Nearest"
    assert "Postprocess upscaler: Nearest" in answer.json()["html_info"]
    assert not engine.jobs()[-1].images[0].path.exists()


def test_sizes_and_a_second_upscaler_under_a1111s_names(client: httpx.Client) -> None:
    body = {
        "image": f"data:image/png;base64,{packed(photo())}", "resize_mode": 1, "upscaling_resize_w": 28,
        "upscaling_resize_h": 28, "upscaling_crop": True, "upscaler_1": "anime/2x-repeats", "upscaler_2": "Lanczos",
        "extras_upscaler_2_visibility": 0.5, "gfpgan_visibility": 0, "codeformer_weight": 0.5, "upscale_first": False,
    }  # fmt: skip
    answer = client.post(f"{SDAPI}/extra-single-image", json=body)
    assert answer.status_code == 200, answer.text
    halves = [
        photo().resize((40, 28), how).crop((6, 0, 34, 28))
        for how in (Image.Resampling.NEAREST, Image.Resampling.LANCZOS)
    ]
    assert unpacked(answer.json()["image"]).tobytes() == Image.blend(halves[0], halves[1], 0.5).tobytes()


def test_without_an_upscaler_a_picture_stays_as_it_is(client: httpx.Client) -> None:
    for body in ({}, {"upscaler_1": "None", "upscaler_2": "Nearest", "extras_upscaler_2_visibility": 1}):
        answer = client.post(f"{SDAPI}/extra-single-image", json={"image": packed(photo()), **body})
        assert unpacked(answer.json()["image"]).tobytes() == photo().tobytes()


def test_a_batch_comes_back_in_its_order(client: httpx.Client) -> None:
    pictures = [{"data": packed(photo(seed)), "name": f"{seed}.png"} for seed in range(3)]
    body = {"imageList": pictures, "upscaling_resize": 3, "upscaler_1": "Nearest"}
    answer = client.post(f"{SDAPI}/extra-batch-images", json=body)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"html_info", "images"}
    made = [unpacked(image).tobytes() for image in answer.json()["images"]]
    assert made == [larger(photo(seed), 60, 42, Image.Resampling.NEAREST) for seed in range(3)]


@pytest.mark.parametrize(
    ("path", "change", "status", "field"),
    [
        ("extra-single-image", {"image": None}, 422, "image"),
        ("extra-single-image", {"image": "http://example.org/x.png"}, 422, "image"),
        ("extra-single-image", {"image": "AAAA"}, 422, ""),
        ("extra-single-image", {"upscaler_1": "4x-none"}, 422, "upscaler_1"),
        ("extra-single-image", {"upscaler_2": 5}, 422, "upscaler_2"),
        ("extra-single-image", {"upscaling_resize": 0}, 422, "upscaling_resize"),
        ("extra-single-image", {"resize_mode": 2}, 422, "resize_mode"),
        ("extra-single-image", {"resize_mode": 1, "upscaling_resize_w": -1}, 422, "upscaling_resize_w"),
        ("extra-single-image", {"extras_upscaler_2_visibility": 2}, 422, "extras_upscaler_2_visibility"),
        ("extra-single-image", {"gfpgan_visibility": 0.5}, 501, "gfpgan_visibility"),
        ("extra-single-image", {"codeformer_visibility": 1}, 501, "codeformer_visibility"),
        ("extra-batch-images", {}, 422, "imageList"),
        ("extra-batch-images", {"imageList": [{"name": "x"}]}, 422, "imageList[0]"),
    ],
)
def test_what_a1111s_clients_get_wrong_is_told_by_their_names(
    client: httpx.Client, path: str, change: dict[str, Any], status: int, field: str
) -> None:
    answer = client.post(f"{SDAPI}/{path}", json={"image": packed(photo()), "upscaler_1": "Nearest", **change})
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text


def test_fields_that_are_not_known_are_told(client: httpx.Client) -> None:
    body = {"image": packed(photo()), "upscaler_1": "Nearest", "<b>": 1}
    assert "<p>&lt;b&gt; is not known here" in client.post(f"{SDAPI}/extra-single-image", json=body).json()["html_info"]
