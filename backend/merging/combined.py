"""Weights that a rule makes of those of several models, and what is added to weights by adapters."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from backend.adapters.patched import Deltas
from backend.errors import BadCheckpoint, NumericalError
from backend.merging.operands import PIECE, Aligned, Buffers, Rows, StoredWeight, Weight, first_not_finite, in_windows
from backend.merging.rule import NarrowFormula, Operands, Rule, Settings
from backend.weights.source import WeightSource

_NARROW = (torch.float16, torch.bfloat16)

Prepare = Callable[[Operands, Settings], Iterator[Tensor]]


@dataclass(frozen=True)
class Combined:
    """What a rule makes of one weight in all models of a merge, in float32 and never rounded.

    operands: at least one, of the same shape. values: the rule's numbers for this weight. seed: of the merge.
    method: the rule's function, with the merge's normalisation; method_name: what tells it from others.
    """

    key: str
    operands: tuple[Weight, ...]
    values: Mapping[str, float]
    seed: int
    method: Prepare
    method_name: str
    is_random: bool = False
    narrow: NarrowFormula | None = None
    survey: SharedSurvey | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.operands[0].shape

    @property
    def identity(self) -> str:
        return self._identity

    @cached_property
    def _identity(self) -> str:
        content = {
            "method": self.method_name,
            "operands": [operand.identity for operand in self.operands],
            "values": dict(sorted(self.values.items())),
            "key": self.key if self.is_random else "",
            "seed": self.seed if self.is_random else 0,
            "survey": "" if self.survey is None else self.survey.identity,
        }
        return _digest(content)

    def numbers(self, buffers: Buffers) -> Iterator[Tensor]:
        """All of it in order, in pieces of any sizes. Raises BadCheckpoint and NumericalError."""
        statistics = {} if self.survey is None else self.survey.statistics()
        return self.method(Aligned(self.key, self.operands, buffers), self.settings(statistics))

    def narrow_numbers(self, dtype: torch.dtype, buffers: Buffers) -> Iterator[Tensor] | None:
        """All of it in order, rounded to `dtype` already, where that can be had in one step; None elsewhere."""
        narrow = self.narrow
        if narrow is None or dtype not in _NARROW:
            return None
        stored = [operand for operand in self.operands if isinstance(operand, StoredWeight)]
        if len(stored) < len(self.operands) or any(one.source.spec(one.key).dtype != dtype for one in stored):
            return None
        if any(one.source.packing(one.key) is not None for one in stored):
            return None
        return self._narrow_pieces(narrow, [one.source.read(one.key).reshape(-1) for one in stored], buffers)

    def _narrow_pieces(self, narrow: NarrowFormula, models: Sequence[Tensor], buffers: Buffers) -> Iterator[Tensor]:
        with buffers.lent() as buffer:
            for pieces in zip(*(model.split(PIECE) for model in models), strict=True):
                yield narrow(pieces, self.values, buffer.of(pieces[0].numel(), pieces[0].dtype))

    def settings(self, statistics: Mapping[str, float]) -> Settings:
        return Settings(values=self.values, seed=_seed(self.seed, self.key), statistics=statistics)

    def windows(self, bounds: Iterable[Rows], buffers: Buffers) -> Iterator[Tensor]:
        return in_windows(self.numbers(buffers), self.shape, bounds)

    def sources(self) -> Iterator[tuple[WeightSource, str]]:
        for operand in self.operands:
            yield from operand.sources()


@dataclass
class SharedSurvey:
    """What a rule must know of whole models, found out once, when the first weight is asked for."""

    rule: Rule
    weights: list[Combined] = field(default_factory=list["Combined"])
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _found: Mapping[str, float] | None = None

    @cached_property
    def identity(self) -> str:
        """Of all that it depends on: the models, and none of the rule's numbers."""
        weights = [(weight.key, [operand.identity for operand in weight.operands]) for weight in self.weights]
        return _digest([self.rule.name, weights])

    def statistics(self, *, on_weight: Callable[[Combined], None] = lambda _: None) -> Mapping[str, float]:
        """on_weight: told of each weight before it is measured; what it raises ends the survey."""
        with self._lock:
            if self._found is None:
                self._found = self._survey(on_weight)
            return self._found

    def _survey(self, on_weight: Callable[[Combined], None]) -> Mapping[str, float]:
        survey = self.rule.survey
        if survey is None:
            return {}
        measured: list[Sequence[float]] = []
        buffers = Buffers()
        for weight in self.weights:
            on_weight(weight)
            numbers = survey.measure(Aligned(weight.key, weight.operands, buffers), Settings(values={}))
            if not torch.tensor(numbers, dtype=torch.float64).isfinite().all():
                refuse_not_finite(weight.key, weight)
            measured.append(numbers)
        return survey.combine(measured)


@dataclass(frozen=True)
class Adapted:
    """A weight with what adapters add to it."""

    key: str
    weight: Weight
    deltas: Deltas

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def identity(self) -> str:
        return self._identity

    @cached_property
    def _identity(self) -> str:
        return _digest([self.weight.identity, self.deltas.identity_of(self.key)])

    def windows(self, bounds: Iterable[Rows], buffers: Buffers) -> Iterator[Tensor]:
        bounds = tuple(bounds)
        delta = self.deltas.delta_of(self.key)
        for (start, stop), rows in zip(bounds, self.weight.windows(bounds, buffers), strict=True):
            if delta is not None:
                delta.add_to(rows, slice(start, stop))
            yield rows

    def sources(self) -> Iterator[tuple[WeightSource, str]]:
        return self.weight.sources()


def refuse_not_finite(key: str, weight: Weight) -> None:
    """Raises BadCheckpoint, which names the input that holds no numbers, or NumericalError when none does."""
    found = first_not_finite(weight)
    if found is not None:
        raise BadCheckpoint(
            found[0], f'"{found[1]}" holds values that are no numbers (NaN or infinity). Use an undamaged file.'
        )
    raise NumericalError(
        f'The merge gives values for "{key}" that are no numbers, although all inputs are. Use weights of about 0 to 1.'
    )


def _seed(seed: int, key: str) -> int:
    """Of one weight: none depends on the order in which they are merged."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:8], "little") >> 1


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
