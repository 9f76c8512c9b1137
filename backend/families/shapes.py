"""The shapes of a file's weights, from which configurations are read."""

from __future__ import annotations

from typing import NoReturn

from backend.errors import KeysDoNotMatch
from backend.weights.source import WeightSource


class Shapes:
    """Shapes by key; a missing key is the file's fault and is told as such."""

    def __init__(self, source: WeightSource, part: str) -> None:
        self.source = source
        self._part = part
        self._keys = frozenset(source.keys())

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __getitem__(self, key: str) -> tuple[int, ...]:
        if key not in self._keys:
            raise KeysDoNotMatch(self.source.origin, self._part, missing=[key])
        return self.source.spec(key).shape

    def of_rank(self, key: str, rank: int) -> tuple[int, ...]:
        """The shape of a weight that has `rank` dimensions, none of them 0."""
        shape = self[key]
        if len(shape) != rank or min(shape) < 1:
            self.misshaped(f"{key} {list(shape)}")
        return shape

    def misshaped(self, what: str) -> NoReturn:
        raise KeysDoNotMatch(self.source.origin, self._part, misshaped=[what])

    def count(self, prefix: str, suffix: str) -> int:
        """How many consecutive numbers n, from 0, make `prefix` n `suffix` a key."""
        number = 0
        while f"{prefix}{number}{suffix}" in self._keys:
            number += 1
        return number
