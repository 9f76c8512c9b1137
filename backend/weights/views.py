"""Sources whose tensors are those of another source under new names, or parts of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from backend.weights.packing import Packing
from backend.weights.source import TensorSpec, WeightSource, storage_of


@dataclass(frozen=True)
class View:
    """A tensor of another source. rows: from the first to before the second. transposed: a matrix, after `rows`."""

    key: str
    rows: tuple[int, int] | None = None
    transposed: bool = False


class Viewed:
    """A source in which every tensor is a view of one of another; the rest of the other is left out.

    Parts of a mapped file cost no memory as long as they are only read; where they are copied, a whole tensor is held
    for the moment, because only a copy of the whole notices a file that is cut off meanwhile.
    """

    def __init__(self, source: WeightSource, views: Mapping[str, View]) -> None:
        self._source = source
        self._views = dict(views)

    def keys(self) -> Sequence[str]:
        return tuple(self._views)

    def spec(self, key: str) -> TensorSpec:
        view = self._views[key]
        spec = self._source.spec(view.key)
        shape = spec.shape
        if view.rows is not None:
            shape = (view.rows[1] - view.rows[0], *shape[1:])
        return TensorSpec(shape[::-1] if view.transposed else shape, spec.dtype)

    def read(self, key: str) -> Tensor:
        return _seen(self._source.read(self._views[key].key), self._views[key])

    def read_into(self, key: str, out: Tensor) -> None:
        view = self._views[key]
        if view.rows is None:
            self._source.read_into(view.key, out.T if view.transposed else out)
            return
        spec = self._source.spec(view.key)
        whole = torch.empty(spec.shape, dtype=spec.dtype)
        self._source.read_into(view.key, whole)
        out.copy_(_seen(whole, view))

    def is_made(self, key: str) -> bool:
        return self._source.is_made(self._views[key].key)

    def packing(self, key: str) -> Packing | None:
        view = self._views[key]
        packing = None if view.transposed else self._source.packing(view.key)
        if packing is None or packing.low_rank is None or view.rows is None:
            return packing
        return replace(packing, low_rank=packing.low_rank.cut(*view.rows))

    def storage_bytes(self, key: str) -> int:
        view = self._views[key]
        if view.transposed:
            return self.spec(key).num_bytes
        start, end = self._span(view)
        return end - start

    def read_storage(self, key: str) -> Tensor:
        view = self._views[key]
        if view.transposed:
            return storage_of(self.read(key))
        start, end = self._span(view)
        return self._source.read_storage(view.key)[start:end]

    def read_storage_into(self, key: str, out: Tensor) -> None:
        view = self._views[key]
        if view.transposed:
            spec = self.spec(key)
            self.read_into(key, out.view(spec.dtype).view(spec.shape))
        elif view.rows is None:
            self._source.read_storage_into(view.key, out)
        else:
            whole = torch.empty(self._source.storage_bytes(view.key), dtype=torch.uint8)
            self._source.read_storage_into(view.key, whole)
            start, end = self._span(view)
            out.copy_(whole[start:end])

    def _span(self, view: View) -> tuple[int, int]:
        """The bytes of a view among those of what it shows: every row takes the same number of them."""
        num_bytes = self._source.storage_bytes(view.key)
        if view.rows is None:
            return 0, num_bytes
        row_bytes = num_bytes // max(1, self._source.spec(view.key).shape[0])
        return view.rows[0] * row_bytes, view.rows[1] * row_bytes

    def identity(self, key: str) -> str:
        view = self._views[key]
        part = "" if view.rows is None else f" rows {view.rows[0]}-{view.rows[1]}"
        return f"{self._source.identity(view.key)}{part}{' transposed' if view.transposed else ''}"

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._source.metadata

    @property
    def origin(self) -> Path:
        return self._source.origin


def _seen(tensor: Tensor, view: View) -> Tensor:
    part = tensor if view.rows is None else tensor[view.rows[0] : view.rows[1]]
    return part.T if view.transposed else part
