"""All jobs that can be seen, and the order in which the waiting ones run."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from backend.engine.job import JobState, JobView
from backend.errors import UnknownName

MAX_QUEUED = 500
KEPT_FINISHED = 100


class JobTable:
    """Views by id in the order of their queuing. Every change replaces a frozen view and wakes whoever waits."""

    def __init__(self) -> None:
        self._views: dict[str, JobView] = {}
        self._cancelled: set[str] = set()
        self._is_closed = False
        self._changed = threading.Condition(threading.RLock())

    @contextmanager
    def held(self) -> Generator[None]:
        """Keep everybody else from seeing or changing jobs."""
        with self._changed:
            yield

    def add(self, view: JobView) -> None:
        with self._changed:
            self._views[view.id] = view
            self._forget_old()
            self._changed.notify_all()

    def update(self, job_id: str, **changes: Any) -> JobView:
        with self._changed:
            view = self._views[job_id] = dataclasses.replace(self._views[job_id], **changes)
            if view.state.is_final:
                self._cancelled.discard(job_id)
            self._changed.notify_all()
            return view

    def get(self, job_id: str) -> JobView:
        """Raises UnknownName."""
        with self._changed:
            if job_id not in self._views:
                raise UnknownName("job", job_id, [view.id for view in self._views.values() if not view.state.is_final])
            return self._views[job_id]

    def all(self) -> list[JobView]:
        with self._changed:
            return list(self._views.values())

    def num_queued(self) -> int:
        with self._changed:
            return sum(view.state is JobState.QUEUED for view in self._views.values())

    def running(self) -> JobView | None:
        with self._changed:
            return next((view for view in self._views.values() if view.state is JobState.RUNNING), None)

    def cancel(self, job_id: str) -> JobView:
        """Mark a job as unwanted: a running one sees it at its next step. Raises UnknownName."""
        with self._changed:
            view = self.get(job_id)
            if not view.state.is_final:
                self._cancelled.add(job_id)
                self._changed.notify_all()
            return view

    def start_if_queued(self, job_id: str) -> bool:
        """Make a queued job the running one; False when it is no longer queued."""
        return self._move(job_id, JobState.RUNNING)

    def end_if_queued(self, job_id: str) -> bool:
        """Make a queued job a cancelled one; False when it is no longer queued."""
        return self._move(job_id, JobState.CANCELLED)

    def is_cancelled(self, job_id: str) -> bool:
        with self._changed:
            return job_id in self._cancelled or self._is_closed

    def take_next(self) -> JobView | None:
        """Wait for a queued job and return the first; None when the table was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._first_queued() is not None)
            return None if self._is_closed else self._first_queued()

    def wait(self, job_id: str, timeout: float | None) -> JobView:
        """The view once the job is final, or as it is after `timeout` seconds. Raises UnknownName."""
        self.get(job_id)
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._views[job_id].state.is_final, timeout)
            return self._views[job_id]

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _move(self, job_id: str, state: JobState) -> bool:
        with self._changed:
            if self._views[job_id].state is not JobState.QUEUED:
                return False
            self.update(job_id, state=state)
            return True

    def _first_queued(self) -> JobView | None:
        return next((view for view in self._views.values() if view.state is JobState.QUEUED), None)

    def _forget_old(self) -> None:
        finished = [job_id for job_id, view in self._views.items() if view.state.is_final]
        for job_id in finished[: max(0, len(finished) - KEPT_FINISHED)]:
            del self._views[job_id]
