"""The server as a process: its port, its start, and its end at a signal."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from backend.errors import ServerError
from backend.http.port import open_port
from backend.http.security import Security
from backend.http.server import Serving, build_app, serve
from tests.http_server import engine_in, server_of

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import sys
from pathlib import Path
from backend.engine.engine import Engine
from backend.engine.settings import Settings
from backend.http.security import Security
from backend.http.server import build_app, serve

engine = Engine.open(Settings.for_root(Path(sys.argv[1]), force_cpu=True), persistent=False)
security = Security(port=0)
serve(build_app(engine, security), security, lambda url: print(url, flush=True))
print("cleaning up", flush=True)
engine.close()
print("done", flush=True)
"""


def line_of(process: subprocess.Popen[str], seconds: float) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    assert ready, "the process said nothing"
    return process.stdout.readline().strip()


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_within_seconds_and_the_program_cleans_up(tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        url = line_of(process, 120)
        with httpx.stream("GET", f"{url}api/v1/events", timeout=30) as stream:  # which never ends by itself
            assert next(stream.iter_lines()).startswith("data: ")
            start = time.monotonic()
            process.send_signal(number)
            assert line_of(process, 20) == "cleaning up"
            assert time.monotonic() - start < 5
        assert line_of(process, 20) == "done"
        assert process.wait(20) == 0
    finally:
        process.kill()


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path):
    with open_port("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"Port {port} is in use.*--port {port + 1}"):
            open_port("127.0.0.1", port)
        security = Security(port=port)
        with engine_in(tmp_path, checkpoints=0) as engine:
            app = build_app(engine, security)
            with pytest.raises(ServerError, match="in use"):
                serve(app, security, pytest.fail)


def test_a_port_can_be_opened_again_at_once():
    with open_port("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            first.accept()[0].close()
    open_port("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.name.invalid"])
def test_an_address_that_is_not_ours_is_named(host):
    with pytest.raises(ServerError, match=f"{host} is no address of this machine"):
        open_port(host, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_serves_on_every_loopback_address(tmp_path, host):
    try:
        open_port(host, 0).close()
    except ServerError:
        pytest.skip(f"this machine has no {host}")
    with engine_in(tmp_path, checkpoints=0) as engine, server_of(engine, Security(host=host, port=0)) as server:
        assert httpx.get(f"{server.url}sdapi/v1/samplers", timeout=20).status_code == 200


def test_serves_https_below_the_path_of_a_proxy(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-keyout", key, "-out", certificate],
        capture_output=True,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("there is no openssl here")
    serving = Serving(subpath="/studio", tls_key=key, tls_certificate=certificate)
    security = Security(port=0, token="s3cret")
    with engine_in(tmp_path, checkpoints=0) as engine, server_of(engine, security, serving) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert server.url.endswith("/studio/?token=s3cret")
        with httpx.Client(verify=False) as client:
            answer = client.get(server.url.replace("/studio", ""))  # a proxy takes its path away
            assert (answer.status_code, answer.headers["location"]) == (303, "/studio/")
            assert "Secure" in answer.headers["set-cookie"]
            assert client.get(server.url.split("/studio")[0] + "/sdapi/v1/samplers").status_code == 200
