"""A job as the page, HTTP and extensions see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from backend.engine.job_request import JobRequest


class JobState(str, Enum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, kw_only=True)
class SavedImage:
    """A finished picture. `infotext` is the A1111 `parameters` text that the file carries.

    before_hires: the picture as its first pass left it, where there was a second one.
    """

    path: Path
    seed: int
    infotext: str
    width: int
    height: int
    before_hires: Path | None = None


@dataclass(frozen=True, kw_only=True)
class JobView:
    """The state of a job at one moment.

    stage: what the job is doing, in words; "" before it starts.
    step, steps: sampling steps done and in all, over all batches of the job; steps is 0 until the plan is known.
    done_bytes, all_bytes: of a file that the job writes. eta_seconds: until the last step, or the end of the file.
    preview_version: 0 until there is a preview.
    adapters: what is known of the LoRAs that act on the pictures, as JSON values: see `PlannedAdapter.facts`.
    error, error_kind: message and class name when the job failed.
    """

    id: str
    state: JobState
    request: JobRequest
    stage: str = ""
    step: int = 0
    steps: int = 0
    seconds_per_step: float = 0.0
    eta_seconds: float = 0.0
    done_bytes: int = 0
    all_bytes: int = 0
    preview_version: int = 0
    images: tuple[SavedImage, ...] = ()
    notices: tuple[str, ...] = ()
    adapters: tuple[Mapping[str, Any], ...] = ()
    error: str = ""
    error_kind: str = ""
    seconds: float = 0.0
