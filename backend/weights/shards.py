"""Weights that are spread over several files: model-00001-of-00003.safetensors and its like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from backend.errors import BadCheckpoint
from backend.weights.packing import Packing
from backend.weights.source import TensorSpec, WeightSource

_MOST = 200
_NAME = re.compile(r"(.+-)(\d{5})(-of-(\d{5})\.\w+)")


def shards_of(path: Path) -> Sequence[Path]:
    """All files of what `path` is a part of, in order; itself alone when its name is not that of a part.

    Raises BadCheckpoint when one is missing.
    """
    match = _NAME.fullmatch(path.name)
    if match is None or not 0 < int(match[2]) <= int(match[4]) <= _MOST:
        return (path,)
    shards = [path.with_name(f"{match[1]}{number:05}{match[3]}") for number in range(1, int(match[4]) + 1)]
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing:
        raise BadCheckpoint(
            path,
            f"{len(missing)} of its {len(shards)} parts are missing ({', '.join(missing[:3])}). Download them, too.",
        )
    return shards


def is_later_shard(path: Path) -> bool:
    """Whether a file is a part other than the first, which stands for all of them in lists."""
    match = _NAME.fullmatch(path.name)
    return match is not None and 1 < int(match[2]) <= int(match[4]) <= _MOST


class Joined:
    """Several sources as one. Raises BadCheckpoint when a key is in two of them."""

    def __init__(self, sources: Sequence[WeightSource]) -> None:
        self._sources = tuple(sources)
        self._of: dict[str, WeightSource] = {}
        for source in sources:
            for key in source.keys():
                if key in self._of:
                    raise BadCheckpoint(
                        source.origin, f'"{key}" is in {self._of[key].origin.name}, too. Download the parts again.'
                    )
                self._of[key] = source

    def keys(self) -> Sequence[str]:
        return tuple(self._of)

    def spec(self, key: str) -> TensorSpec:
        return self._of[key].spec(key)

    def read(self, key: str) -> Tensor:
        return self._of[key].read(key)

    def read_into(self, key: str, out: Tensor) -> None:
        self._of[key].read_into(key, out)

    def is_made(self, key: str) -> bool:
        return self._of[key].is_made(key)

    def packing(self, key: str) -> Packing | None:
        return self._of[key].packing(key)

    def storage_bytes(self, key: str) -> int:
        return self._of[key].storage_bytes(key)

    def read_storage(self, key: str) -> Tensor:
        return self._of[key].read_storage(key)

    def read_storage_into(self, key: str, out: Tensor) -> None:
        self._of[key].read_storage_into(key, out)

    def identity(self, key: str) -> str:
        """Of a key that it does not have, such as "", that of all files."""
        if key in self._of:
            return self._of[key].identity(key)
        return " ".join(source.identity(key) for source in self._sources)

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._sources[0].metadata

    @property
    def origin(self) -> Path:
        return self._sources[0].origin
