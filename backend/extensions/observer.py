"""An extension's observer on a thread of its own: whatever it does, the jobs go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, Full, Queue

from backend.events import Event

MAX_ERRORS = 3
MAX_BEHIND = 1000  # events: about 20 MB when all of them are previews

_log = logging.getLogger(__name__)


class ObserverThread:
    """Hands events to `observe` in their order. After `MAX_ERRORS` errors, or too far behind, it is switched off."""

    def __init__(self, extension: str, observe: Callable[[Event], None]) -> None:
        self._extension = extension
        self._observe = observe
        self._events: Queue[Event | None] = Queue(MAX_BEHIND)  # None: there are no more
        self._num_errors = 0
        self._is_closed = False
        self._is_broken = False
        self.problem = ""  # what the page should say about it; "" while all is well
        self._thread = threading.Thread(target=self._run, name=f"observer of {extension}", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Take an event. Never waits and never raises."""
        if self._is_closed or self._is_broken:
            return
        try:
            self._events.put_nowait(event)
        except Full:
            self._switch_off(f"its observer fell {MAX_BEHIND} events behind")

    def close(self, timeout: float) -> None:
        """Let the observer finish the events so far, for at most `timeout` seconds."""
        self._is_closed = True
        try:
            self._events.put(None, timeout=timeout)
        except Full:
            return  # it hangs; as a daemon it does not keep the process
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._is_broken and (event := self._events.get()) is not None:
            try:
                self._observe(event)
            except (Exception, SystemExit) as error:
                self._count(event, error)

    def _count(self, event: Event, error: BaseException) -> None:
        self._num_errors += 1
        what = f"{type(error).__name__}: {error}"
        _log.error("Extension %s: its observer failed at %s", self._extension, type(event).__name__, exc_info=error)
        if self._num_errors < MAX_ERRORS:
            self.problem = f"its observer failed {self._num_errors} of {MAX_ERRORS} tolerated times; last: {what}"
        else:
            self._switch_off(f"its observer failed {MAX_ERRORS} times; last: {what}")

    def _switch_off(self, why: str) -> None:
        self._is_broken = True
        self.problem = f"{why}. It was switched off until the next start"
        _log.error("Extension %s: %s", self._extension, self.problem)
        self._drop_waiting()

    def _drop_waiting(self) -> None:
        try:
            while True:
                self._events.get_nowait()
        except Empty:
            return
