"""How a tool says how far it is, and asks whether to go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backend.errors import Cancelled


def _no_progress(_done: int, _all: int) -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Progress:
    """on_progress: how much is done, and how much there is. is_cancelled: asked before every layer."""

    on_progress: Callable[[int, int], None] = _no_progress
    is_cancelled: Callable[[], bool] = _never

    def step(self, done: int, total: int) -> None:
        """Raises Cancelled."""
        if self.is_cancelled():
            raise Cancelled
        self.on_progress(done, total)
