"""Several sources as one, each behind a prefix or under other names, and the parts of it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from backend.errors import BadCheckpoint
from backend.weights.packing import Packing
from backend.weights.source import Renamed, TensorSpec, WeightSource


@dataclass(frozen=True, kw_only=True)
class Component:
    """name: of a key of the part in the whole."""

    source: WeightSource
    name: Callable[[str], str]


class Assembled:
    """Every tensor of every part; metadata are those of the first.

    Raises BadCheckpoint for a name that is there twice.
    """

    def __init__(self, parts: Sequence[Component]) -> None:
        self._parts = tuple(parts)
        self._places: dict[str, tuple[WeightSource, str]] = {}
        for part in parts:
            for key in part.source.keys():
                name = part.name(key)
                if name in self._places:
                    raise BadCheckpoint(part.source.origin, f'"{name}" is there twice.')
                self._places[name] = (part.source, key)

    def keys(self) -> Sequence[str]:
        return tuple(self._places)

    def spec(self, key: str) -> TensorSpec:
        source, name = self._places[key]
        return source.spec(name)

    def read(self, key: str) -> Tensor:
        source, name = self._places[key]
        return source.read(name)

    def read_into(self, key: str, out: Tensor) -> None:
        source, name = self._places[key]
        source.read_into(name, out)

    def is_made(self, key: str) -> bool:
        source, name = self._places[key]
        return source.is_made(name)

    def packing(self, key: str) -> Packing | None:
        source, name = self._places[key]
        return source.packing(name)

    def storage_bytes(self, key: str) -> int:
        source, name = self._places[key]
        return source.storage_bytes(name)

    def read_storage(self, key: str) -> Tensor:
        source, name = self._places[key]
        return source.read_storage(name)

    def read_storage_into(self, key: str, out: Tensor) -> None:
        source, name = self._places[key]
        source.read_storage_into(name, out)

    def identity(self, key: str) -> str:
        source, name = self._places[key]
        return source.identity(name)

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._parts[0].source.metadata

    @property
    def origin(self) -> Path:
        return self._parts[0].source.origin


class PartOf(Renamed):
    """A part again, out of a source that has the names of the whole; what the part says of itself is its own."""

    def __init__(self, whole: WeightSource, part: Component) -> None:
        own = {part.name(key): key for key in part.source.keys()}
        super().__init__(whole, own.get)
        self._part = part.source

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._part.metadata

    @property
    def origin(self) -> Path:
        return self._part.origin
