"""What a user may change while the program runs, kept in a JSON file."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import RequestError
from backend.weights.atomic import write_atomically

_log = logging.getLogger(__name__)
MAX_CLIP_SKIP = 12
MAX_IDLE_MINUTES = 10_080  # a week


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """What requests that leave it open get.

    checkpoint: title or name, None for the first one; vae: None for the checkpoint's own.
    preview_every: steps between live previews, 0 for none.
    idle_unload_minutes: after which all weights leave the memory when nothing runs, 0 for never.
    compile_networks: compile the networks' blocks with torch.compile, which takes minutes once; for GPUs.
    Raises RequestError for a value of the wrong kind; names are checked by the engine.
    """

    checkpoint: str | None = None
    vae: str | None = None
    clip_skip: int | None = None
    emphasis: str = "original"
    noise_source: str = "nv"
    exact_batches: bool = False
    preview_every: int = 1
    idle_unload_minutes: float = 0.0
    compile_networks: bool = False

    def __post_init__(self) -> None:
        for field, kinds in _KINDS.items():
            value = getattr(self, field)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise RequestError(field, f"{value!r} cannot be a preference")
        if self.clip_skip is not None and not 1 <= self.clip_skip <= MAX_CLIP_SKIP:
            raise RequestError("clip_skip", f"{self.clip_skip} is outside 1 to {MAX_CLIP_SKIP}")
        if not 0 <= self.preview_every <= 1000:
            raise RequestError("preview_every", f"{self.preview_every} is outside 0 to 1000")
        if not 0 <= self.idle_unload_minutes <= MAX_IDLE_MINUTES:
            raise RequestError("idle_unload_minutes", f"{self.idle_unload_minutes} is outside 0 to {MAX_IDLE_MINUTES}")


_KINDS: dict[str, tuple[type, ...]] = {
    "checkpoint": (str, type(None)),
    "vae": (str, type(None)),
    "clip_skip": (int, type(None)),
    "emphasis": (str,),
    "noise_source": (str,),
    "exact_batches": (bool,),
    "preview_every": (int,),
    "idle_unload_minutes": (int, float),
    "compile_networks": (bool,),
}


def changed(preferences: Preferences, changes: dict[str, Any]) -> Preferences:
    """Preferences with some values changed. Raises RequestError for an unknown name, too."""
    for name in changes:
        if name not in _KINDS:
            raise RequestError(str(name)[:100], f"is no preference. Known: {', '.join(_KINDS)}")
    return dataclasses.replace(preferences, **changes)


def load_preferences(file: Path) -> Preferences:
    """The saved preferences. An unreadable file is moved aside and told in the log, and the defaults are used."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return Preferences()
    except (OSError, ValueError) as error:
        return _set_aside(file, str(error))
    if not isinstance(content, dict):
        return _set_aside(file, "it holds no object")
    try:
        return changed(Preferences(), {name: value for name, value in content.items() if name in _KINDS})
    except RequestError as error:
        return _set_aside(file, str(error))


def save_preferences(file: Path, preferences: Preferences) -> None:
    """Raises DiskFull, NotWritable or OutputError."""
    write_atomically(file, json.dumps(dataclasses.asdict(preferences), indent=1).encode())


def _set_aside(file: Path, problem: str) -> Preferences:
    kept = file.with_suffix(".unreadable.json")
    _log.warning("%s cannot be used (%s); it is kept as %s and the defaults are used", file.name, problem, kept.name)
    if file.exists():
        file.replace(kept)
    return Preferences()
