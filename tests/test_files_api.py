"""/outputs: pictures of the output folder, nothing else, and nothing that could run as a page of ours."""

from __future__ import annotations

import io
import os
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.errors import RequestError
from backend.http.safe_join import safe_join
from backend.http.security import Security
from backend.http.server import build_app
from backend.http.thumbnails import Thumbnails
from tests.http_server import client_of, engine_in


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def outputs(home):
    """An output folder with pictures, pages, and links that lead out of it; a secret lies beside it."""
    outputs = home / "outputs"
    (outputs / "2026-11-24").mkdir(parents=True)
    (home / "outputs2").mkdir()
    picture = Image.new("RGB", (1024, 640), (9, 99, 199))
    for name in ("a.png", "b.JPG", "c.jpeg", "d.webp", "2026-11-24/00001-5.png", "ü ß.png"):
        picture.save(outputs / name)
    picture.save(home / "secret.png")
    picture.save(home / "outputs2" / "secret.png")
    page = "<script>parent.stolen = 1</script>"
    for name in (
        "p.html",
        "p.htm",
        "p.svg",
        "p.xhtml",
        "p.HTML",
        "p.xml",
        "p.js",
        "p.txt",
        "p.json",
        "p",
        "p.png.html",
    ):
        (outputs / name).write_text(page)
    (outputs / "page.png").write_text(page)
    (outputs / "out.png").symlink_to(home / "secret.png")
    (outputs / "out").symlink_to(home)
    (outputs / "circle.png").symlink_to(outputs / "circle.png")
    os.mkfifo(outputs / "pipe.png")
    return outputs


@pytest.fixture(scope="module")
def client(home, outputs):
    with engine_in(home) as engine, client_of(build_app(engine, Security())) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.png", "image/png"),
        ("b.JPG", "image/jpeg"),
        ("c.jpeg", "image/jpeg"),
        ("d.webp", "image/webp"),
        ("2026-11-24/00001-5.png", "image/png"),
        ("ü ß.png", "image/png"),
    ],
)
def test_pictures_are_served_byte_for_byte_and_small(client, outputs, name, kind):
    answer = client.get(f"/outputs/{quote(name)}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert answer.content == (outputs / name).read_bytes()
    assert answer.headers["content-security-policy"].endswith("sandbox")
    small = client.get(f"/outputs/thumb/{quote(name)}")
    assert (small.status_code, small.headers["content-type"]) == (200, "image/webp")
    assert Image.open(io.BytesIO(small.content)).size == (512, 320)


PAGES = [
    "p.html",
    "p.htm",
    "p.svg",
    "p.xhtml",
    "p.HTML",
    "p.xml",
    "p.js",
    "p.txt",
    "p.json",
    "p",
    "p.png.html",
    "p.htm ",
]


@pytest.mark.parametrize("name", PAGES)
def test_whatever_is_no_picture_is_not_there(client, name):
    for path in (f"/outputs/{quote(name)}", f"/outputs/thumb/{quote(name)}"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "script" not in answer.text


def test_a_page_that_calls_itself_a_picture_stays_one(client):
    answer = client.get("/outputs/page.png")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/outputs/thumb/page.png").status_code == 404


HOSTILE = [
    "../secret.png", "..", ".", "", "/", "./a.png", "a.png/", "a.png/.", "2026-11-24/../../secret.png", "//a.png",
    "/etc/passwd.png", "//etc/x.png", "2026-11-24//00001-5.png", "..\\secret.png", "2026-11-24\\00001-5.png",
    "C:\\a.png", "C:a.png", "a.png:stream.png", "\x00.png", "a\x00.png", "a\n.png", "a\x1b[2J.png", "\x7f.png",
    "../outputs2/secret.png", "../outputs/a.png", "out.png", "out/secret.png", "circle.png",
    "pipe.png", "con.png", "CON", "aux.png", "nul", "NUL.tar.png", "com1.png", "LPT9.png", "com¹.png", "conin$.png",
    "a.png.", "a.png ", " ", "...", "....png/..", "x" * 181 + ".png", "ü" * 91 + ".png", "x/" * 600 + "a.png",
    "~/a.png", "$HOME/a.png", "a*.png", "a?.png", 'a".png', "a<b.png", "a|b.png", "\ud800.png", "\u2025/secret.png",
    "\uff0e\uff0e/secret.png", "%2e%2e/secret.png", "..%2fsecret.png",
    "%252e%252e%252fsecret.png", ".\u200d./secret.png",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:30])
def test_no_name_leads_out_of_the_folder(client, outputs, home, name):
    secret = (home / "secret.png").read_bytes()
    for folder in ("/outputs/", "/outputs/thumb/"):
        quoted = quote(name.encode("utf-8", "surrogatepass"), safe="/%")
        quoted = "/".join(part.replace(".", "%2e") if part in (".", "..") else part for part in quoted.split("/"))
        answer = client.get(folder + quoted)  # dots in disguise, because clients take plain ones away
        assert answer.status_code in (307, 404), answer.status_code
        assert secret not in answer.content
    try:
        path = safe_join(outputs, name)
    except RequestError:
        return
    assert path.is_relative_to(outputs.resolve())
    assert not path.is_file()


@settings(deadline=None, derandomize=True, max_examples=500)
@given(name=st.text(alphabet=st.sampled_from("./\\a:~ \x00ü\u2025\uff0eo2ut"), max_size=14) | st.text(max_size=20))
def test_what_is_joined_is_always_inside(outputs, name):
    try:
        path = safe_join(outputs, name)
    except RequestError:
        return
    assert path.is_relative_to(outputs.resolve())
    assert path != outputs.resolve()


def test_ranges_and_missing_pictures_are_answered(client):
    part = client.get("/outputs/a.png", headers={"Range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, b"\x89PNG\r\n\x1a\n")
    assert client.get("/outputs/none.png").json()["error"] == "NotFound"
    assert client.post("/outputs/a.png").status_code == 405
    assert client.delete("/outputs/a.png").status_code == 405


def test_thumbnails_are_made_once_and_again_when_the_picture_has_changed(tmp_path):
    file = tmp_path / "a.png"
    Image.new("RGB", (64, 64), (255, 0, 0)).save(file)
    thumbnails = Thumbnails()
    first = thumbnails.get(file)
    assert thumbnails.get(file) is first
    Image.new("RGB", (64, 32), (0, 0, 255)).save(file)
    assert thumbnails.get(file) != first


def test_thumbnails_take_a_bounded_amount_of_memory(tmp_path):
    thumbnails = Thumbnails(max_bytes=2000)
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for path in paths:
        Image.effect_noise((32, 32), 90).save(path)
    first = thumbnails.get(paths[0])
    for path in paths[1:]:
        thumbnails.get(path)
    assert thumbnails.num_bytes <= 2000
    assert thumbnails.get(paths[0]) == first
    assert thumbnails.get(paths[0]) is not first
