"""What the tests of the HTTP interface share: an engine on a tiny checkpoint, clients, and a real server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from backend.engine.engine import Engine
from backend.engine.settings import Settings
from backend.http.port import open_port
from backend.http.security import Security
from backend.http.server import GuardedApp, Server, Serving, build_app
from tests.tiny_checkpoint import write_tiny_checkpoint

ADDRESS = "http://127.0.0.1:7860"
SMALL = {"width": 64, "height": 64, "steps": 2}


@contextmanager
def engine_in(folder: Path, *, checkpoints: int = 1) -> Iterator[Engine]:
    """An engine with tiny checkpoints "tiny-0", "tiny-1" ... and a VAE folder that is empty."""
    settings = Settings.for_root(folder, force_cpu=True, full_precision=True)
    for number in range(checkpoints):
        write_tiny_checkpoint(settings.models_dir / "checkpoints" / f"tiny-{number}.safetensors", seed=number)
    engine = Engine.open(settings, persistent=False)
    try:
        yield engine
    finally:
        engine.close()


def client_of(app: GuardedApp, **options: Any) -> TestClient:
    return TestClient(app, base_url=ADDRESS, follow_redirects=False, raise_server_exceptions=False, **options)


@contextmanager
def server_of(engine: Engine, security: Security | None = None, serving: Serving | None = None) -> Iterator[Server]:
    """A server that answers, on a free port."""
    security = security or Security(port=0)
    port = open_port(security.host, security.port)
    server = Server(build_app(engine, security), security, serving or Serving(), port)
    ready = threading.Event()
    thread = threading.Thread(target=server.run, args=(lambda _: ready.set(),), daemon=True)
    thread.start()
    try:
        assert ready.wait(20)
        yield server
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()
