"""Everything that the `extension.py` of an extension may import. Names may be added here, never removed.

`setup(api: ExtensionApi)` is called once, when the program starts. See docs/extensions.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from backend.diffusion.levels import Levels
from backend.diffusion.noise import NoiseSource
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.process import Denoise, Process, half_log_snr
from backend.diffusion.samplers import Sample, Sampler
from backend.diffusion.schedules import AUTOMATIC, Schedule
from backend.engine.catalog import Catalog
from backend.engine.settings import Settings
from backend.errors import EmulsionError, ExtensionError
from backend.events import (
    BytesDone,
    Event,
    ImageSaved,
    JobCancelled,
    JobDone,
    JobFailed,
    JobQueued,
    JobStarted,
    Notice,
    PreviewReady,
    Progress,
    StageStarted,
)
from backend.extensions.guards import guarded_detector, guarded_sampler, guarded_schedule
from backend.extensions.manifest import Manifest
from backend.extensions.modules import package_name
from backend.extensions.observer import ObserverThread
from backend.images.detector import Detector
from backend.pipeline.infotext import Infotext, read_infotext
from backend.registry import Named, Registry
from backend.weights.atomic import told_as_output_errors, write_atomically

__all__ = [
    "BytesDone",
    "Denoise",
    "Detector",
    "EmulsionError",
    "Event",
    "ExtensionApi",
    "ExtensionError",
    "ImageSaved",
    "Infotext",
    "JobCancelled",
    "JobDone",
    "JobFailed",
    "JobQueued",
    "JobStarted",
    "Levels",
    "NoiseLevels",
    "NoiseSource",
    "Notice",
    "PreviewReady",
    "Process",
    "Progress",
    "Sample",
    "Sampler",
    "Schedule",
    "Settings",
    "StageStarted",
    "extension_data_dir",
    "half_log_snr",
    "read_infotext",
    "write_atomically",
]

_Entry = TypeVar("_Entry", bound=Named)

_CLOSING_SECONDS = 5.0
_MAX_NAME = 60


class ExtensionHost(Protocol):
    """What extensions need of the engine."""

    @property
    def settings(self) -> Settings: ...

    @property
    def catalog(self) -> Catalog: ...

    def subscribe(self, observer: Callable[[Event], None], /) -> Callable[[], None]: ...


class ExtensionApi:
    """The program, as one extension sees it. What an extension registers can be withdrawn again as a whole."""

    def __init__(self, manifest: Manifest, host: ExtensionHost, owners: dict[tuple[str, str], str]) -> None:
        """owners: which extension registered the entry of this kind and name, shared by all of them."""
        self._manifest = manifest
        self._host = host
        self._owners = owners
        self._undo: list[Callable[[], None]] = []
        self._observers: list[ObserverThread] = []
        self._problems: list[str] = []
        self._is_withdrawn = False
        self.log = logging.getLogger(package_name(manifest))

    def add_sampler(self, sampler: Sampler) -> None:
        """Offer a sampler wherever one can be chosen.

        Raises ExtensionError when one of its names is taken or its default schedule does not exist.
        """
        self._check_kind(sampler, Sampler)
        schedules = self._host.catalog.schedules
        if sampler.default_schedule not in schedules:
            raise self._error(
                f'the default schedule "{sampler.default_schedule}" of its sampler "{sampler.name}" does not exist. '
                f"Known: {', '.join(schedules.names())}"
            )
        self._register(self._host.catalog.samplers, guarded_sampler(self._manifest.id, sampler))

    def add_schedule(self, schedule: Schedule) -> None:
        """Offer a schedule wherever one can be chosen. Raises ExtensionError when one of its names is taken."""
        self._check_kind(schedule, Schedule)
        self._register(self._host.catalog.schedules, guarded_schedule(self._manifest.id, schedule))

    def add_detector(self, detector: Detector) -> None:
        """Offer a detector of regions, which are then made again. Raises ExtensionError when a name is taken."""
        self._check_kind(detector, Detector)
        self._register(self._host.catalog.detectors, guarded_detector(self._manifest.id, detector))

    def observe(self, observer: Callable[[Event], None]) -> None:
        """Call `observer` with every event of every job, in order and on a thread of the extension's own.

        Match on the types that you know and pass over the others: there will be more. An observer that raises three
        times, or falls a thousand events behind, is switched off until the next start.
        """
        self._check_open()
        if not callable(observer):
            raise self._error(f"a function was expected, not {type(observer).__name__}")
        thread = ObserverThread(self._manifest.id, observer)
        self._observers.append(thread)
        self._undo.append(lambda: thread.close(_CLOSING_SECONDS))
        self._undo.append(self._host.subscribe(thread))

    @property
    def data_dir(self) -> Path:
        """The extension's own folder for what it keeps; made when it is first asked for. Raises NotWritable."""
        return extension_data_dir(self._host.settings, self._manifest.id)

    @property
    def output_dir(self) -> Path:
        """The folder under which pictures are saved."""
        return self._host.settings.output_dir

    def add_problem(self, problem: str) -> None:
        """Tell the user, on the page, what does not work although the extension runs."""
        self._problems.append(problem)
        self.log.warning("Extension %s: %s", self._manifest.id, problem)

    @property
    def problems(self) -> tuple[str, ...]:
        """What has been told or found so far."""
        return (*self._problems, *(observer.problem for observer in self._observers if observer.problem))

    def withdraw(self) -> None:
        """Undo every registration, the last one first. Nothing can be registered afterwards."""
        self._is_withdrawn = True
        while self._undo:
            self._undo.pop()()

    def _check_open(self) -> None:
        if self._is_withdrawn:
            raise self._error("it was switched off and cannot register anything")

    def _check_kind(self, value: object, kind: type) -> None:
        if not isinstance(value, kind):
            raise self._error(f"a {kind.__name__} was expected, not {type(value).__name__}")

    def _register(self, registry: Registry[_Entry], entry: _Entry) -> None:
        self._check_open()
        for text in (entry.name, entry.label, *entry.aliases):
            if not _is_usable_name(text):
                raise self._error(
                    f"{text!r:.60} is no name for a {registry.kind}; use one line of 1 to {_MAX_NAME} characters"
                )
            if text in registry:
                raise self._error(self._collision(registry, entry, text))
        registry.add(entry)
        self._owners[registry.kind, entry.name] = self._manifest.id
        self._undo.append(lambda: self._unregister(registry, entry))

    def _unregister(self, registry: Registry[_Entry], entry: _Entry) -> None:
        registry.remove(entry.name)
        del self._owners[registry.kind, entry.name]

    def _collision(self, registry: Registry[_Entry], entry: _Entry, text: str) -> str:
        taken = registry[text]
        owner = self._owners.get((registry.kind, taken.name))
        of = f'the extension "{owner}"' if owner else "Emulsion itself"
        return (
            f'its {registry.kind} "{entry.name}" cannot be called "{text}": '
            f'that is the {registry.kind} "{taken.name}" of {of}. Choose another name'
        )

    def _error(self, problem: str) -> ExtensionError:
        return ExtensionError(self._manifest.id, problem)


def _is_usable_name(text: str) -> bool:
    is_reserved = text.strip().casefold() == AUTOMATIC
    return 1 <= len(text.strip()) <= _MAX_NAME and text.isprintable() and not is_reserved


def extension_data_dir(settings: Settings, extension: str) -> Path:
    """The folder in which an extension keeps its data; made when it is not there. Raises NotWritable."""
    folder = settings.data_dir / "extensions" / extension
    with told_as_output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
