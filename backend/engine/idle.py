"""Let go of all weights when nothing was asked for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)
_LONGEST_WAIT = 15.0  # seconds, so that a changed setting takes effect soon


class IdleUnloader:
    """A thread that calls `unload` once after every stretch of `minutes()` without work; 0 minutes mean never."""

    def __init__(
        self, minutes: Callable[[], float], is_busy: Callable[[], bool], unload: Callable[[], None], *,
        longest_wait: float = _LONGEST_WAIT,
    ) -> None:  # fmt: skip
        self._minutes = minutes
        self._is_busy = is_busy
        self._unload = unload
        self._longest_wait = longest_wait
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="idle unloader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        idle_since: float | None = time.monotonic()  # None once it was unloaded
        while not self._closed.wait(self._until_due(idle_since)):
            if self._is_busy():
                idle_since = time.monotonic()
            elif idle_since is not None and 0 < self._minutes() * 60 <= time.monotonic() - idle_since:
                _log.info("nothing was asked for %g minutes; the weights leave the memory", self._minutes())
                self._unload()
                idle_since = None

    def _until_due(self, idle_since: float | None) -> float:
        wanted = self._minutes() * 60
        if idle_since is None or wanted <= 0:
            return self._longest_wait
        return min(self._longest_wait, max(0.05, idle_since + wanted - time.monotonic()))
