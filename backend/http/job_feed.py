"""What happens to jobs, brought from the engine's threads to coroutines that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager, suppress

from backend.engine.engine import Engine
from backend.events import Event


class Watch:
    """One watcher's view: which jobs have changed since it looked last."""

    def __init__(self) -> None:
        self._changed: dict[str, None] = {}  # an ordered set
        self._woken = asyncio.Event()
        self.is_closed = False

    async def wait(self, timeout: float) -> None:
        """Return when a job has changed or the feed was closed, and after `timeout` seconds in any case."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._woken.wait(), timeout)

    def take(self) -> list[str]:
        """The ids of the jobs that have changed, in the order of their changing; they are not told again."""
        changed = list(self._changed)
        self._changed.clear()
        if not self.is_closed:
            self._woken.clear()
        return changed

    def tell(self, job_id: str) -> None:
        self._changed[job_id] = None
        self._woken.set()

    def close(self) -> None:
        self.is_closed = True
        self._woken.set()


class JobFeed:
    """Hears every event of the engine and wakes the watchers, in the event loop of the server."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._watches: set[Watch] = set()
        self._is_closed = False

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        """Hear the engine while the block runs, which must be in the event loop."""
        loop = asyncio.get_running_loop()

        def hear(event: Event) -> None:
            loop.call_soon_threadsafe(self._tell, event.job_id)

        unsubscribe = self._engine.subscribe(hear)
        try:
            yield
        finally:
            unsubscribe()
            self.close()

    @contextmanager
    def watch(self) -> Generator[Watch, None, None]:
        watch = Watch()
        if self._is_closed:
            watch.close()
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    def close(self) -> None:
        """Send all watchers home: the server stops. To be called in the event loop."""
        self._is_closed = True
        for watch in self._watches:
            watch.close()

    def _tell(self, job_id: str) -> None:
        for watch in self._watches:
            watch.tell(job_id)
