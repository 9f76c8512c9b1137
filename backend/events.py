"""What happens to a job, as frozen values. Fields may be added, never removed: observers match on the type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class JobQueued:
    job_id: str


@dataclass(frozen=True, kw_only=True)
class JobStarted:
    job_id: str


@dataclass(frozen=True, kw_only=True)
class StageStarted:
    """A job entered a stage: "loading", "encoding the prompt", "sampling", "decoding", "saving"."""

    job_id: str
    stage: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A sampling step ended.

    step, steps: of the whole job, over all its batches, 1-based.
    seconds_per_step: recent average; eta_seconds: until the last step.
    """

    job_id: str
    step: int
    steps: int
    seconds_per_step: float
    eta_seconds: float


@dataclass(frozen=True, kw_only=True)
class BytesDone:
    """A file that a job writes has grown. eta_seconds: until its end."""

    job_id: str
    done_bytes: int
    all_bytes: int
    eta_seconds: float


@dataclass(frozen=True, kw_only=True)
class PreviewReady:
    """A small JPEG of the picture as it forms; `version` grows with each one of a job."""

    job_id: str
    version: int
    jpeg: bytes


@dataclass(frozen=True, kw_only=True)
class ImageSaved:
    """A finished picture lies on the disk, with its metadata inside."""

    job_id: str
    path: Path
    seed: int
    infotext: str


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that the user should know about a job, though it goes on."""

    job_id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class JobDone:
    job_id: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class JobFailed:
    """`kind` is the name of the error class in `backend.errors`, or "InternalError"."""

    job_id: str
    kind: str
    message: str


@dataclass(frozen=True, kw_only=True)
class JobCancelled:
    job_id: str


Event = (
    JobQueued
    | JobStarted
    | StageStarted
    | Progress
    | BytesDone
    | PreviewReady
    | ImageSaved
    | Notice
    | JobDone
    | JobFailed
    | JobCancelled
)
