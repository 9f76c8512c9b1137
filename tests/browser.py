"""A real server with a page, and a headless Chromium that looks at it and remembers what went wrong."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from backend.engine.engine import Engine
from backend.engine.settings import Settings
from backend.extensions.loaded import Extensions
from backend.http.port import open_port
from backend.http.security import Security
from backend.http.server import Server, Serving, build_app
from backend.nn.flux import Flux, FluxConfig
from backend.weights.safetensors_file import write_safetensors
from tests.tiny_checkpoint import write_tiny_checkpoint
from ui.environment import prepare_environment
from ui.mount import mount_page
from ui.page import build_page
from ui.scripts import ASSETS_FOLDER, ASSETS_URL

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 120_000  # of everything that is waited for: the machine may be very busy
# Every place that shows text from files or other people shows this one somewhere in the tests.
SINK = "<img src=x onerror='window.harmed=1'>${window.harmed=2}{{constructor}}"


@contextmanager
def served_page(root: Path) -> Iterator[tuple[Engine, str]]:
    """The engine, and the address of the page."""
    settings = Settings.for_root(root, force_cpu=True, full_precision=True)
    checkpoints = settings.checkpoint_dirs[0]
    write_tiny_checkpoint(checkpoints / "tiny.safetensors")
    harmful = {"modelspec.title": SINK, "modelspec.usage_hint": SINK, "modelspec.license": SINK}
    write_tiny_checkpoint(checkpoints / f"{_as_file_name(SINK)}.safetensors", metadata=harmful)
    write_tiny_checkpoint(checkpoints / "finisher.safetensors", seed=1)
    write_safetensors(checkpoints / "flow.safetensors", _flux_tensors(), {})
    (checkpoints / "broken.safetensors").write_text("<html>404</html>")
    prepare_environment(settings)
    engine = Engine.open(settings, persistent=False)
    try:
        with server_with_page(engine) as url:
            yield engine, url
    finally:
        engine.close()


@contextmanager
def server_with_page(engine: Engine, port: int = 0, subpath: str = "") -> Iterator[str]:
    """A server and a page of its own on `engine`; the address is without `subpath`, which a proxy would add."""
    security = Security(port=port)
    app = build_app(engine, security, folders={ASSETS_URL: ASSETS_FOLDER})
    mount_page(app, build_page(engine, Extensions(loaded=(), failed=(), off=())))
    server = Server(app, security, Serving(subpath=subpath), open_port(security.host, security.port))
    with _running(server) as url:
        yield url


@contextmanager
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """One look at the page. `problems` are errors in the console, exceptions and requests to other addresses."""

    def __init__(self, browser: Any, url: str, *, width: int = 1440, height: int = 900, scheme: str = "dark") -> None:
        self.url = url
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.open()

    def open(self) -> Any:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        page.on("console", self._heard)
        page.on("request", lambda request: self._asked(request.url))
        page.goto(self.url)
        self.wait_until_ready(page)
        return page

    def wait_until_ready(self, page: Any) -> None:
        """Until the form has been brought back, and can be filled."""
        page.locator("body[data-form=open]").wait_for()

    def field(self, label: str) -> Any:
        return self.page.get_by_label(label, exact=True)

    def turn_to(self, tab: str) -> None:
        """Open a tab, in a narrow window by way of the menu of those that have no place."""
        shown = self.page.get_by_role("tab", name=tab, exact=True).first
        if shown.is_visible():
            shown.click()
            return
        self.page.locator("#em-tabs .overflow-menu > button").click()
        self.page.locator("#em-tabs .overflow-dropdown button", has_text=tab).click()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def close(self) -> None:
        self.context.close()

    def _heard(self, message: Any) -> None:
        url = message.location.get("url", "")
        if "/preview.jpg" in url and "404" in message.text:
            return  # it was asked for when its job had just ended, which the page takes in its stride
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text} ({url})")

    def _asked(self, url: str) -> None:
        self.requests.append(url)
        if not url.startswith((self.url, "data:", "blob:")):
            self.problems.append(f"request to {url}")


@contextmanager
def _running(server: Server) -> Iterator[str]:
    ready = threading.Event()
    thread = threading.Thread(target=server.run, args=(lambda _: ready.set(),), daemon=True)
    thread.start()
    try:
        assert ready.wait(30)
        yield server.url
    finally:
        server.stop()
        thread.join(20)


def _flux_tensors() -> dict[str, Tensor]:
    """A network of FLUX.1 [dev] without text encoders and VAE: enough to be described."""
    config = FluxConfig(
        width=64, heads=2, mlp_width=64, double_blocks=1, single_blocks=1, context_dim=32, vector_dim=16
    )
    return {f"model.diffusion_model.{key}": value for key, value in Flux(config).state_dict().items()}


def _as_file_name(text: str) -> str:
    return text.replace("/", "")
