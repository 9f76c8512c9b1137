"""Setting extensions up, each on its own: one that fails is named and undone, and the others go on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from backend.engine.catalog import Catalog
from backend.engine.settings import Settings
from backend.errors import ExtensionError
from backend.events import Event
from backend.extensions.api import ExtensionApi, ExtensionHost
from backend.extensions.loaded import Extensions, FailedExtension, LoadedExtension
from backend.extensions.manifest import Manifest, extension_folders, read_manifest
from backend.extensions.modules import import_module
from backend.extensions.order import load_order
from backend.extensions.process_state import ProcessState

SLOW_SECONDS = 10.0

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def load_extensions(
    folder: Path,
    engine: ExtensionHost,
    *,
    disabled: Collection[str] = (),
    safe_mode: bool = False,
    with_events: bool = True,
) -> Extensions:
    """Read every manifest in `folder` and call `setup` of each extension, in the order of their `after`.

    disabled: ids that the user switched off; safe_mode: all of them are off. with_events: whether observers are called;
    a command that makes its pictures in a scratch folder has nothing to tell them.

    Raises nothing for a broken extension: it is in `failed`, with what is wrong.
    """
    host = engine if with_events else _WithoutEvents(settings=engine.settings, catalog=engine.catalog)
    manifests, failed = _read_manifests(folder)
    order = load_order(manifests, disabled={manifest.id for manifest in manifests} if safe_mode else disabled)
    failed += [_failed(manifest, problem) for manifest, problem in order.refused]
    loaded: dict[str, LoadedExtension] = {}
    owners: dict[tuple[str, str], str] = {}
    for manifest in order.ready:
        extension = LoadedExtension(manifest=manifest, api=ExtensionApi(manifest, host, owners))
        try:
            _check_foundations(manifest, loaded)
            _set_up(extension)
        except ExtensionError as error:
            extension.withdraw()
            failed.append(_failed(manifest, error.problem))
        else:
            loaded[manifest.id] = extension
    for broken in failed:
        _log.error("Extension %s is not used: %s", broken.id, broken.problem)
    return Extensions(loaded=tuple(loaded.values()), failed=failed, off=order.off)


@dataclass(frozen=True, kw_only=True)
class _WithoutEvents:
    """An engine of which extensions see no events."""

    settings: Settings
    catalog: Catalog

    def subscribe(self, observer: Callable[[Event], None], /) -> Callable[[], None]:
        return lambda: None


def load_ui_module(extension: LoadedExtension) -> ModuleType:
    """Import the `ui.py` of an extension. Raises ExtensionError, whatever goes wrong in it."""
    return guarded_call(extension, "ui.py", lambda: import_module(extension.manifest, "ui"))


def guarded_call(extension: LoadedExtension, what: str, call: Callable[[], _T]) -> _T:
    """Run code of an extension. What it changes of the process is put back and becomes one of its problems.

    what: the part of the extension that runs, as messages name it. Raises ExtensionError for everything that the code
    raises, and for attempts to end the program.
    """
    state = ProcessState()
    try:
        with _told_when_slow(extension.manifest.id, what):
            result = call()
    except (Exception, SystemExit) as error:  # foreign code: whatever it raises, the program goes on
        state.restore()
        _log.exception("Extension %s: its %s failed", extension.manifest.id, what)
        if isinstance(error, ExtensionError):
            raise
        raise ExtensionError(extension.manifest.id, f"its {what} failed: {type(error).__name__}: {error}") from error
    if changed := state.restore():
        extension.api.add_problem(f"its {what} changed {', '.join(changed)}, which was put back")
    return result


def _read_manifests(folder: Path) -> tuple[list[Manifest], list[FailedExtension]]:
    manifests: list[Manifest] = []
    failed: list[FailedExtension] = []
    for path in extension_folders(folder):
        try:
            manifests.append(read_manifest(path))
        except ExtensionError as error:
            failed.append(FailedExtension(id=path.name, folder=path, problem=error.problem))
    return manifests, failed


def _check_foundations(manifest: Manifest, loaded: Collection[str]) -> None:
    for needed in manifest.after:
        if needed not in loaded:
            raise ExtensionError(manifest.id, f'it builds on the extension "{needed}", which failed')


def _set_up(extension: LoadedExtension) -> None:
    started = time.perf_counter()
    guarded_call(extension, "extension.py", lambda: _run_setup(extension))
    manifest, seconds = extension.manifest, time.perf_counter() - started
    _log.info("Extension %s %s was set up in %.2f s", manifest.id, manifest.version, seconds)


def _run_setup(extension: LoadedExtension) -> None:
    setup = vars(import_module(extension.manifest, "extension")).get("setup")
    if not callable(setup):
        raise ExtensionError(extension.manifest.id, "its extension.py has no function setup(api)")
    setup(extension.api)


@contextmanager
def _told_when_slow(extension: str, what: str) -> Generator[None, None, None]:
    """Log who keeps the program waiting, since a start that hangs tells nobody why."""
    message = "Extension %s: its %s has been running for %.0f seconds, and the program waits for it"
    timer = threading.Timer(SLOW_SECONDS, _log.warning, (message, extension, what, SLOW_SECONDS))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _failed(manifest: Manifest, problem: str) -> FailedExtension:
    return FailedExtension(id=manifest.id, folder=manifest.folder, problem=problem, manifest=manifest)
