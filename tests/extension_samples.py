"""Extensions for tests, written into a temporary folder, and an engine's side for them to register with."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

from backend.engine.catalog import Catalog
from backend.engine.settings import Settings
from backend.events import Event

SAMPLER = """
    from backend.extensions.api import ExtensionApi, Sampler

    def sample(denoise, x, sigmas, process, noise):
        return denoise(x, sigmas[0])

    def setup(api: ExtensionApi) -> None:
        api.add_sampler(Sampler(name="{name}", label="{name} of the test", sample=sample))
"""


class Host:
    """The engine as extensions see it: real settings and registries, and events that the test publishes."""

    def __init__(self, root: Path) -> None:
        self.settings = Settings.for_root(root)
        self.catalog = Catalog.builtin()
        self.observers: list[Callable[[Event], None]] = []

    def subscribe(self, observer: Callable[[Event], None], /) -> Callable[[], None]:
        self.observers.append(observer)
        return lambda: self.observers.remove(observer)

    def publish(self, event: Event) -> None:
        for observer in list(self.observers):
            observer(event)


def write_extension(
    parent: Path, id: str, code: str, *, folder: str | None = None, ui: str | None = None, **fields: str
) -> Path:
    """An extension with this `extension.py`. fields: further lines of its manifest, as TOML values."""
    path = parent / (folder or id)
    path.mkdir(parents=True)
    values = {"id": f'"{id}"', "name": '"A test"', "version": '"1.0"', "description": '"For a test."', "api": "1"}
    lines = [f"{field} = {value}" for field, value in (values | fields).items()]
    (path / "extension.toml").write_text("\n".join(lines), "utf-8")
    (path / "extension.py").write_text(textwrap.dedent(code), "utf-8")
    if ui is not None:
        (path / "ui.py").write_text(textwrap.dedent(ui), "utf-8")
    return path


def write_good_one(parent: Path, id: str = "good") -> Path:
    """An extension that registers a sampler of its own name."""
    return write_extension(parent, id, SAMPLER.format(name=id))
