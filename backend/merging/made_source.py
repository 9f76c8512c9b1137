"""A made model as a source of weights: every tensor is computed when it is asked for, and rounded once."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backend.errors import NumericalError
from backend.merging.combined import Combined, refuse_not_finite
from backend.merging.operands import Buffers, StoredWeight, Weight, pieces_of
from backend.weights.fp8 import FP8, Fp8, Fp8Rows
from backend.weights.packing import Packing
from backend.weights.source import TensorSpec, storage_of

_COPIED = 2**22  # bytes of an unchanged tensor that are given at a time


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A weight, and the type that its model stores it as."""

    weight: Weight
    dtype: torch.dtype

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.weight.shape, self.dtype)


def slot_of(weight: StoredWeight) -> Slot:
    """Quantised weights, which cannot be stored as they are once they are computed with, become float16."""
    spec = weight.source.spec(weight.key)
    is_quantised = spec.dtype == torch.float32 and weight.source.packing(weight.key) is not None
    return Slot(weight=weight, dtype=torch.float16 if is_quantised else spec.dtype)


class MadeSource:
    """Weights of all kinds as a `WeightSource`. Weights that are those of a file are its bytes, and cost nothing.

    What is read raises BadCheckpoint for an input with values that are no numbers, and NumericalError for a result.
    """

    def __init__(self, slots: Mapping[str, Slot], *, metadata: Mapping[str, str], origin: Path) -> None:
        self._slots = dict(slots)
        self._buffers = Buffers()
        self._fp8 = {dtype: Fp8(dtype) for dtype in FP8}
        self.metadata = metadata
        self.origin = origin

    def keys(self) -> Sequence[str]:
        return tuple(self._slots)

    def weight(self, key: str) -> Weight:
        return self._slots[key].weight

    def spec(self, key: str) -> TensorSpec:
        return self._slots[key].spec

    def read(self, key: str) -> Tensor:
        stored = self._unchanged(key)
        if stored is not None:
            return stored.source.read(stored.key)
        spec = self.spec(key)
        out = torch.empty(spec.shape, dtype=spec.dtype)
        self._fill(key, out.view(-1))
        return out

    def read_into(self, key: str, out: Tensor) -> None:
        stored = self._unchanged(key)
        if stored is not None:
            stored.source.read_into(stored.key, out)
        elif out.is_contiguous():
            self._fill(key, out.view(-1))
        else:
            out.copy_(self.read(key))

    def is_made(self, key: str) -> bool:
        stored = self._unchanged(key)
        return stored is None or stored.source.is_made(stored.key)

    def packing(self, key: str) -> Packing | None:
        stored = self._unchanged(key)
        if stored is not None:
            return stored.source.packing(stored.key)
        spec = self.spec(key)
        if spec.dtype not in self._fp8 or len(spec.shape) < 2 or not spec.num_elements:
            return None
        unpack = Fp8Rows(self._fp8[spec.dtype], spec.shape[1:])
        return Packing(name=str(spec.dtype).removeprefix("torch."), row_bytes=unpack.row_bytes, unpack=unpack)

    def storage_bytes(self, key: str) -> int:
        return self.spec(key).num_bytes

    def read_storage(self, key: str) -> Tensor:
        stored = self._unchanged(key)
        return storage_of(self.read(key)) if stored is None else stored.source.read_storage(stored.key)

    def read_storage_into(self, key: str, out: Tensor) -> None:
        stored = self._unchanged(key)
        if stored is None:
            spec = self.spec(key)
            self._fill(key, out.view(spec.dtype))
        else:
            stored.source.read_storage_into(stored.key, out)

    def identity(self, key: str) -> str:
        slot = self._slots[key]
        if self._unchanged(key) is not None:
            return slot.weight.identity
        return hashlib.sha256(
            f"{slot.weight.identity} as {slot.dtype} in {list(slot.weight.shape)}".encode()
        ).hexdigest()

    def chunks(self, key: str) -> Iterator[Tensor]:
        """The bytes of a tensor in order, uint8, each overwritten when the next is asked for."""
        if self._unchanged(key) is not None:
            yield from self.read_storage(key).split(_COPIED)
            return
        for numbers in self._rounded(key):
            yield numbers.view(torch.uint8)

    def _unchanged(self, key: str) -> StoredWeight | None:
        slot = self._slots[key]
        weight = slot.weight
        is_same = isinstance(weight, StoredWeight) and weight.source.spec(weight.key).dtype == slot.dtype
        return weight if isinstance(weight, StoredWeight) and is_same and not self._is_quantised(weight) else None

    @staticmethod
    def _is_quantised(weight: StoredWeight) -> bool:
        """Whether it takes other bytes than numbers of its type would."""
        return weight.source.storage_bytes(weight.key) != weight.source.spec(weight.key).num_bytes

    def _fill(self, key: str, out: Tensor) -> None:
        start = 0
        for numbers in self._rounded(key):
            out[start : start + numbers.numel()].copy_(numbers)
            start += numbers.numel()

    def _rounded(self, key: str) -> Iterator[Tensor]:
        """All numbers in order, flat, in the type of the result."""
        slot = self._slots[key]
        narrow = slot.weight.narrow_numbers(slot.dtype, self._buffers) if isinstance(slot.weight, Combined) else None
        if narrow is not None:
            for numbers in narrow:
                # A sum shows every NaN and infinity; one that is infinite by itself only costs another look.
                if not math.isfinite(float(numbers.sum())) and not bool(numbers.isfinite().all()):
                    deque(self._rounded_exactly(key), maxlen=0)  # which refuses it, and says why
                yield numbers
        else:
            yield from self._rounded_exactly(key)

    def _rounded_exactly(self, key: str) -> Iterator[Tensor]:
        slot = self._slots[key]
        most = torch.finfo(slot.dtype).max
        with self._buffers.lent() as buffer:
            rounded = torch.empty(0)
            for piece in self._exact(slot.weight):
                exact = piece.reshape(-1)
                square = float(torch.dot(exact, exact))  # NaN or infinity in any number is one here, too
                if not square < most * most and not bool((exact.abs() <= most).all()):
                    self._refuse(key, exact)
                if rounded.numel() != exact.numel():
                    rounded = buffer.of(exact.numel(), slot.dtype)
                yield rounded.copy_(exact)

    def _exact(self, weight: Weight) -> Iterator[Tensor]:
        """All numbers in order, float32, in pieces of any sizes."""
        is_combined = isinstance(weight, Combined)
        return weight.numbers(self._buffers) if is_combined else pieces_of(weight, self._buffers)

    def _refuse(self, key: str, exact: Tensor) -> None:
        slot = self._slots[key]
        if bool(exact.isfinite().all()):
            raise NumericalError(
                f'The merge gives a value of {float(exact.abs().max()):g} for "{key}", and {slot.dtype} ends at '
                f"{torch.finfo(slot.dtype).max:g}. Choose bf16 or fp32."
            )
        refuse_not_finite(key, slot.weight)
