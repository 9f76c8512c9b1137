"""Places in a range of bytes, handed out in order and around: what was taken first is given back first."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass
class _Taken:
    begin: int
    end: int
    is_free: bool = False


class Ring:
    """`size` bytes. Each place is one piece, so that a little stays unused where the range ends."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._taken: deque[_Taken] = deque()

    def take(self, num_bytes: int) -> int | None:
        """Where the next `num_bytes` bytes begin, or None while there is no room behind the newest ones."""
        begin = self._room(num_bytes)
        if begin is not None:
            self._taken.append(_Taken(begin, begin + num_bytes))
        return begin

    def give_back(self, begin: int) -> None:
        """Room appears once everything older, or everything newer, has been given back as well."""
        next(taken for taken in self._taken if taken.begin == begin and not taken.is_free).is_free = True
        while self._taken and self._taken[0].is_free:
            self._taken.popleft()
        while self._taken and self._taken[-1].is_free:
            self._taken.pop()

    def _room(self, num_bytes: int) -> int | None:
        if not self._taken:
            return 0 if num_bytes <= self.size else None
        oldest, newest = self._taken[0], self._taken[-1]
        if newest.begin < oldest.begin:
            return newest.end if newest.end + num_bytes <= oldest.begin else None
        if newest.end + num_bytes <= self.size:
            return newest.end
        return 0 if num_bytes <= oldest.begin else None
