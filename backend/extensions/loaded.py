"""What came of the extensions folder: which extensions run, which do not, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType

from backend.extensions.api import ExtensionApi
from backend.extensions.manifest import Manifest
from backend.extensions.modules import forget


@dataclass(frozen=True, kw_only=True)
class LoadedExtension:
    """An extension that runs."""

    manifest: Manifest
    api: ExtensionApi

    def withdraw(self) -> None:
        """Take it out of the program: what it registered, its observers and its modules."""
        self.api.withdraw()
        forget(self.manifest)


@dataclass(frozen=True, kw_only=True)
class FailedExtension:
    """An extension that does not run. id: the folder's name when there is no manifest that could be read."""

    id: str
    folder: Path
    problem: str
    manifest: Manifest | None = None


class ExtensionState(str, Enum):
    ON = "on"
    OFF = "off"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class ExtensionReport:
    """What the page says about one extension. manifest: None when it cannot be read."""

    id: str
    folder: Path
    state: ExtensionState
    problems: tuple[str, ...]
    manifest: Manifest | None


class Extensions:
    """Every extension of a folder. As a context manager it withdraws them at the end."""

    def __init__(
        self, *, loaded: Sequence[LoadedExtension], failed: Sequence[FailedExtension], off: Sequence[Manifest]
    ) -> None:
        """off: those that the user switched off."""
        self.loaded = tuple(loaded)
        self.failed = tuple(failed)
        self.off = tuple(off)

    def report(self) -> list[ExtensionReport]:
        """Every extension as it is at this moment, by id."""
        on = [_report(loaded.manifest, ExtensionState.ON, loaded.api.problems) for loaded in self.loaded]
        off = [_report(manifest, ExtensionState.OFF, ()) for manifest in self.off]
        failed = [
            ExtensionReport(
                id=extension.id,
                folder=extension.folder,
                state=ExtensionState.FAILED,
                problems=(extension.problem,),
                manifest=extension.manifest,
            )
            for extension in self.failed
        ]
        return sorted([*on, *off, *failed], key=lambda report: (report.id, report.folder.name))

    def close(self) -> None:
        """Withdraw all of them, the last one first; their observers finish the events so far."""
        for extension in reversed(self.loaded):
            extension.withdraw()

    def __enter__(self) -> Extensions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _report(manifest: Manifest, state: ExtensionState, problems: tuple[str, ...]) -> ExtensionReport:
    return ExtensionReport(id=manifest.id, folder=manifest.folder, state=state, problems=problems, manifest=manifest)
