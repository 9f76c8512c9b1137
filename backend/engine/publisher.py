"""Events on their way from the worker to whoever watches."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from backend.events import Event

_log = logging.getLogger(__name__)

Observer = Callable[[Event], None]


class Publisher:
    def __init__(self) -> None:
        self._observers: tuple[Observer, ...] = ()
        self._lock = threading.Lock()

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` with every event from now on; returns the way to stop that."""
        with self._lock:
            self._observers = (*self._observers, observer)
        return lambda: self._remove(observer)

    def publish(self, event: Event) -> None:
        """Tell all observers in their order. One that raises is dropped: a job outlives its watchers."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                _log.exception("an observer of events failed and is not called again")
                self._remove(observer)

    def _remove(self, observer: Observer) -> None:
        with self._lock:
            self._observers = tuple(other for other in self._observers if other is not observer)
