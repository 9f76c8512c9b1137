"""Who holds which weights in memory: bound networks under a byte budget, the least recently used leave first."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn

from backend.errors import OutOfMemory
from backend.memory.byte_sizes import as_text
from backend.memory.out_of_memory import is_out_of_memory

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A network to hold. key: equal keys mean equal weights. num_bytes: what it takes once it is bound."""

    key: str
    label: str
    num_bytes: int
    build: Callable[[], nn.Module]


@dataclass(frozen=True)
class Held:
    """What is in memory: for the user."""

    label: str
    num_bytes: int


class Residency:
    """Bound networks, never more than `budget` bytes of them.

    One part may be used while another is fetched, so that a caller that holds a network keeps it alive; the budget is
    for what stays afterwards.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._held: OrderedDict[str, tuple[Part, nn.Module]] = OrderedDict()
        self._lock = threading.Lock()  # of the table: held for a moment
        self._building = threading.RLock()  # of `get`: held for seconds, while `report` goes on answering

    def get(self, part: Part) -> nn.Module:
        """The bound network of `part`: the one that is held, or a new one, for which others make room.

        Raises OutOfMemory when it alone is larger than the budget, or than what the machine can give.
        """
        with self._building:
            if (module := self._find(part)) is not None:
                return module
            if part.num_bytes > self.budget:
                raise OutOfMemory(
                    f"{part.label} needs {as_text(part.num_bytes)}, but the memory budget is {as_text(self.budget)}. "
                    "Raise it with --memory-budget, or choose a smaller model."
                )
            self._make_room(part.num_bytes)
            module = self._build(part)
            with self._lock:
                self._held[part.key] = (part, module)
            used, budget = as_text(self.used()), as_text(self.budget)
            _log.info("%s: %s in memory, %s of %s used", part.label, as_text(part.num_bytes), used, budget)
            return module

    def used(self) -> int:
        """Bytes of all held networks."""
        with self._lock:
            return sum(part.num_bytes for part, _ in self._held.values())

    def report(self) -> list[Held]:
        """What is held, the least recently used first."""
        with self._lock:
            return [Held(part.label, part.num_bytes) for part, _ in self._held.values()]

    def drop_all(self) -> None:
        """Let go of everything; networks in use live until their users let go, too."""
        with self._lock:
            self._held.clear()
        _give_back()

    def _find(self, part: Part) -> nn.Module | None:
        with self._lock:
            if part.key not in self._held:
                return None
            self._held.move_to_end(part.key)
            return self._held[part.key][1]

    def _make_room(self, num_bytes: int) -> None:
        evicted = False
        while self.used() + num_bytes > self.budget and self._evict_one():
            evicted = True
        if evicted:
            _give_back()

    def _evict_one(self) -> bool:
        with self._lock:
            if not self._held:
                return False
            _, (part, _module) = self._held.popitem(last=False)
        _log.info("%s left the memory", part.label)
        return True

    def _build(self, part: Part) -> nn.Module:
        """Build, if need be once more after everything else has left the memory."""
        try:
            return part.build()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            _log.warning("No memory for %s; everything else makes room", part.label)
        self.drop_all()  # outside of the handler: the traceback holds what was allocated so far
        try:
            return part.build()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"The machine has no memory for {part.label}, which needs {as_text(part.num_bytes)}. "
                "Close other programs, or choose a smaller model."
            ) from error


def _give_back() -> None:
    """Return freed memory to the system: the C library keeps the pages of large models otherwise."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
    if sys.platform == "linux":
        with suppress(AttributeError):  # not every C library has it
            ctypes.CDLL(None).malloc_trim(0)
