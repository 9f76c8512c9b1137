"""What models tell the user of the job that they work for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager

_log = logging.getLogger(__name__)


class Notices:
    """From deep inside of a model to whoever listens; to the log as well. One job at a time listens."""

    def __init__(self) -> None:
        self._listener: Callable[[str], None] | None = None
        self._told: set[str] = set()

    @contextmanager
    def told_to(self, listener: Callable[[str], None]) -> Generator[None]:
        """Have `listener` told, of each thing once, until the end of the block."""
        self._listener, self._told = listener, set()
        try:
            yield
        finally:
            self._listener = None

    def tell(self, text: str) -> None:
        """Something that the user should know and that does not end the job."""
        _log.warning("%s", text)
        if self._listener is not None and text not in self._told:
            self._told.add(text)
            self._listener(text)
