"""The guard: known names only, our own page only, and a password wherever one is set."""

from __future__ import annotations

import base64
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from starlette.routing import Mount
from starlette.websockets import WebSocket, WebSocketDisconnect

from backend.errors import ServerError
from backend.http.body_limit import MAX_BODY_BYTES
from backend.http.security import Security, parse_credentials
from backend.http.server import build_app
from tests.http_server import ADDRESS, client_of, engine_in, server_of

TOKEN = "s3cret-t0ken-of-the-test"
PASSWORD = "pass:w0rd-of-the-test"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with engine_in(tmp_path_factory.mktemp("guard")) as engine:
        yield engine


@pytest.fixture(scope="module")
def open_client(engine):
    """A server on the loopback address without a password."""
    app = build_app(engine, Security())

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    async def upload() -> dict[str, bool]:
        return {"done": True}

    def crash() -> None:
        raise RuntimeError("a bug")

    app.add_api_websocket_route("/socket", echo)
    app.add_api_route("/upload", upload, methods=["POST"])
    app.add_api_route("/crash", crash)
    with client_of(app) as client:
        yield client


@pytest.fixture(scope="module")
def closed_app(engine):
    """A server on the network, with a token and a user."""
    security = Security(host="0.0.0.0", token=TOKEN, credentials=(("ann", PASSWORD),))
    return build_app(engine, security, folders={"/ui": Path(__file__).parent / "data"})


@pytest.fixture
def closed_client(closed_app):
    with client_of(closed_app) as client:
        yield client


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


# Names


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "127.0.0.1", "127.1.2.3", "localhost.:9000"]
)
def test_loopback_names_are_ours(open_client, host):
    assert open_client.get("/sdapi/v1/samplers", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.com:7860", "evil.com", "127.0.0.1.evil.com", "localhost.evil.com:7860", "192.168.1.7:7860",
        "0.0.0.0:7860", "user@127.0.0.1", "127.0.0.1:7860:1", "[::1", "", "127.0.0.1/", "local host", "[::2]",
        "2130706433", "127.1",
    ],
)  # fmt: skip
def test_foreign_names_are_refused_before_anything_runs(open_client, host):
    for path in ("/sdapi/v1/samplers", "/api/v1/events", "/nothing"):
        answer = open_client.get(path, headers={"Host": host, "Origin": f"http://{host}"})
        assert (answer.status_code, answer.json()["error"]) == (400, "UnknownHost")
        assert "access-control-allow-origin" not in answer.headers


def test_the_name_a_proxy_gives_can_be_allowed(engine):
    security = Security(token=TOKEN, allowed_hosts=("Studio.example",))
    with client_of(build_app(engine, security)) as client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("/sdapi/v1/samplers", headers={**headers, "Host": "studio.example"}).status_code == 200
        assert client.get("/sdapi/v1/samplers", headers={**headers, "Host": "other.example"}).status_code == 400


def test_on_the_network_numeric_addresses_are_ours_and_foreign_names_are_not(closed_client):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for host, status in (("192.168.1.7:7860", 200), ("[fe80::1]:7860", 200), ("evil.com:7860", 400)):
        assert closed_client.get("/sdapi/v1/samplers", headers={**headers, "Host": host}).status_code == status


# Sites

FOREIGN_ORIGINS = [
    "http://evil.com",
    "https://evil.com:7860",
    "null",
    "http://localhost:7861",
    "http://127.0.0.1:8000",
    "",
]


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_pages_of_other_sites_and_programs_can_neither_act_nor_read(open_client, origin):
    headers = {"Origin": origin}
    file = {"files": ("a.png", b"x", "image/png")}
    answers = [
        open_client.post("/upload", files=file, headers=headers),
        open_client.post("/sdapi/v1/interrupt", headers=headers),
        open_client.post("/api/v1/jobs", content=b"{}", headers=headers | {"Content-Type": "text/plain"}),
        open_client.get("/sdapi/v1/options", headers=headers),
        open_client.get("/api/v1/events", headers=headers),
        open_client.delete("/api/v1/jobs/1", headers=headers),
        open_client.options("/api/v1/jobs", headers=headers | {"Access-Control-Request-Method": "POST"}),
    ]
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]) == (403, "ForeignSite")
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_foreign_page_sends_without_an_origin_is_refused_too(open_client, site):
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert open_client.get("/sdapi/v1/options", headers=headers).status_code == 403
    assert open_client.post("/sdapi/v1/interrupt", headers=headers).status_code == 403


def test_a_foreign_form_is_refused_although_it_navigates(open_client):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert open_client.post("/sdapi/v1/interrupt", headers=headers).status_code == 403


def test_our_page_programs_and_links_to_us_are_let_in(open_client):
    ours = {"Origin": ADDRESS, "Sec-Fetch-Site": "same-origin"}
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert open_client.post("/upload", files={"files": ("a", b"x")}, headers=ours).json() == {"done": True}
    assert open_client.post("/sdapi/v1/interrupt").status_code == 200
    assert open_client.get("/sdapi/v1/options", headers=link).status_code == 200
    assert open_client.get("/sdapi/v1/options", headers={"Sec-Fetch-Site": "none"}).status_code == 200


def test_websockets_pass_the_same_door(open_client):
    with open_client.websocket_connect("/socket", headers={"Origin": ADDRESS, "Host": "127.0.0.1:7860"}) as socket:
        assert socket.receive_text() == "hello"
    for headers in ({"Origin": "http://evil.com"}, {"Host": "evil.com:7860"}, {"Origin": "null"}):
        with (
            pytest.raises(WebSocketDisconnect) as closed,
            open_client.websocket_connect("/socket", headers={"Host": "127.0.0.1:7860", **headers}),
        ):
            pass
        assert closed.value.code == 1008


def test_a_page_that_was_allowed_by_name_may_call_the_interfaces_and_nothing_else(engine):
    security = Security(allowed_origins=("https://friend.example",))
    with client_of(build_app(engine, security)) as client:
        headers = {"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site"}
        asked = client.options("/sdapi/v1/txt2img", headers={**headers, "Access-Control-Request-Method": "POST"})
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, "https://friend.example")
        read = client.get("/sdapi/v1/samplers", headers=headers)
        assert (read.status_code, read.headers["access-control-allow-origin"]) == (200, "https://friend.example")
        assert client.get("/outputs/a.png", headers=headers).status_code == 403
        assert (
            client.get("/sdapi/v1/samplers", headers={"Origin": "https://friend.example.evil.com"}).status_code == 403
        )


# Passwords


def routes_of(app) -> list[tuple[str, str]]:
    """(method, path) of every route, with something in place of its parameters."""
    paths = app.openapi()["paths"].items()
    routes = [(method.upper(), path) for path, operations in paths for method in operations]
    mounts = [("GET", f"{route.path}/a.png") for route in app.routes if isinstance(route, Mount)]
    return [(method, path.replace("{job_id}", "1").replace("{path}", "a.png")) for method, path in routes + mounts]


def test_every_route_asks_for_the_password(closed_app, closed_client):
    routes = routes_of(closed_app)
    assert len(routes) > 30
    for method, path in [*routes, ("GET", "/"), ("POST", "/gradio_api/upload"), ("PATCH", "/nothing")]:
        answer = closed_client.request(method, path)
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"].startswith("Basic")


def test_no_answer_holds_a_secret(closed_app, closed_client):
    secrets = [TOKEN, PASSWORD, base64.b64encode(f"ann:{PASSWORD}".encode()).decode()]
    for method, path in routes_of(closed_app):
        if method == "GET" and path != "/api/v1/events":
            answer = closed_client.get(path, headers=basic("ann", PASSWORD))
            assert answer.status_code in (200, 404, 422), path
            told = answer.text + str(answer.headers)
            assert not any(secret in told for secret in secrets), path


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("ann", "wrong"),
        basic("bob", PASSWORD),
        basic("", ""),
        {"Authorization": "Basic ????"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe").decode()},
        {"Authorization": "Basic"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Digest {TOKEN}"},
        {"Cookie": f"emulsion-7860={TOKEN}"},
        {"Cookie": "emulsion-7860="},
        {"X-Forwarded-For": "127.0.0.1"},
    ],
)
def test_wrong_passwords_are_refused(closed_client, headers):
    assert closed_client.get("/sdapi/v1/samplers", headers=headers).status_code == 401
    assert closed_client.post("/sdapi/v1/txt2img", headers=headers, json={"prompt": "cat"}).status_code == 401


@pytest.mark.parametrize(
    "headers", [basic("ann", PASSWORD), {"Authorization": f"Bearer {TOKEN}"}], ids=["basic", "bearer"]
)
def test_programs_send_a_password_or_the_token(closed_client, headers):
    assert closed_client.get("/sdapi/v1/samplers", headers=headers).status_code == 200


def test_passwords_cannot_be_guessed_quickly(closed_client):
    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: closed_client.get("/", headers=basic("ann", str(n))), range(16)))
    assert {answer.status_code for answer in answers} == {401}
    assert time.monotonic() - start > 1.5


def test_a_browser_opens_the_address_with_the_token_once(closed_client):
    answer = closed_client.get(f"/?__theme=dark&token={TOKEN}&a=%26b")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?__theme=dark&a=%26b")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in str(answer.headers)
    assert closed_client.get("/sdapi/v1/samplers").status_code == 200  # the client keeps cookies, as a browser does


def test_the_token_leads_to_no_other_site(closed_client):
    for path in ("//evil.com/", "///evil.com", "/\\evil.com", "//evil.com%2f.."):
        location = closed_client.get(f"{ADDRESS}{path}?token={TOKEN}").headers["location"]
        assert urlsplit(location).netloc == ""
        assert location.startswith("/")
        assert not location.startswith(("//", "/\\"))


def test_a_wrong_token_in_the_address_signs_nobody_in(closed_client):
    for query in ("token=wrong", "token=", f"Token={TOKEN}", "&".join(["a=1"] * 200)):
        answer = closed_client.get(f"/?{query}")
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
    assert closed_client.post(f"/sdapi/v1/interrupt?token={TOKEN}").status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.168.1.7", "studio.local", "127.1"])
def test_nobody_serves_the_network_without_a_password(host):
    with pytest.raises(ServerError, match="without a password"):
        Security(host=host)
    drawn = Security.with_token_if_needed(host=host)
    assert drawn.token is not None
    assert len(drawn.token) >= 32
    assert parse_qs(urlsplit(drawn.url(port=7860)).query) == {"token": [drawn.token]}
    assert drawn.token != Security.with_token_if_needed(host=host).token
    assert drawn.token not in repr(drawn)


def test_the_loopback_address_needs_none():
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert Security.with_token_if_needed(host=host) == Security(host=host)
    assert Security(host="::1").url(port=1) == "http://[::1]:1/"


def test_a_foreign_name_or_all_origins_need_one_even_on_the_loopback_address():
    with pytest.raises(ServerError, match="without a password"):
        Security(allowed_hosts=("studio.example",))
    with pytest.raises(ServerError, match="Every web page"):
        Security(allowed_origins=("*",))


def test_credentials_are_read_as_a1111_takes_them():
    assert parse_credentials("ann:a:b, bob:c") == (("ann", "a:b"), ("bob", "c"))
    for text in ("", "ann", "ann:", ":x", "ann:x,bob"):
        with pytest.raises(ServerError) as refusal:
            parse_credentials(text)
        assert text == "" or text not in str(refusal.value)


def test_empty_secrets_protect_nothing():
    for options in ({"token": ""}, {"credentials": (("ann", ""),)}, {"credentials": (("", "x"),)}):
        with pytest.raises(ServerError, match="protects nothing"):
            Security(host="0.0.0.0", **options)


# What every answer carries


def test_every_answer_carries_the_headers_that_keep_others_out(open_client):
    paths = ["/sdapi/v1/samplers", "/nothing", "/crash", "/outputs/none.png"]
    answers = [*map(open_client.get, paths), open_client.get("/", headers={"Host": "evil.com"})]
    assert [answer.status_code for answer in answers] == [200, 404, 500, 404, 400]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["frame-ancestors"] == policy["object-src"] == "'none'"
        assert "http" not in answer.headers["content-security-policy"]
        assert policy["connect-src"].split() == ["'self'", "data:", "blob:"]


def test_a_bug_is_told_without_its_details(open_client):
    answer = open_client.get("/crash")
    assert answer.json()["error"] == "InternalError"
    assert "a bug" not in answer.text


def test_bodies_have_a_largest_size(open_client):
    def endless():
        for _ in range(MAX_BODY_BYTES // 2**20 + 2):
            yield b" " * 2**20

    headers = {"Content-Type": "application/json"}
    announced = open_client.post("/sdapi/v1/txt2img", content=b"{}", headers={**headers, "Content-Length": "999999999"})
    assert (announced.status_code, announced.json()["error"]) == (413, "BodyTooLarge")
    unannounced = open_client.post("/sdapi/v1/txt2img", content=endless(), headers=headers)
    assert unannounced.status_code == 413


def test_the_real_server_tells_nothing_about_itself(engine):
    with server_of(engine) as server:
        answer = httpx.get(f"{server.url}sdapi/v1/samplers", timeout=20)
        assert answer.status_code == 200
        assert "server" not in answer.headers
        assert httpx.get(f"{server.url}", headers={"Host": "evil.com"}, timeout=20).status_code == 400
