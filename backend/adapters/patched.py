"""A model with adapters: every touched weight is computed when it is asked for, and nothing else is different.

What an adapter adds is added to the weights as they are without any adapter, so the order of several does not matter.
A change of strength changes the identities of the weights that this adapter touches, and no others; taking it away
leaves the weights of the file, bit for bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from backend.adapters.aliases import aliases_of, named_targets, specs_of
from backend.adapters.format import ALL_ROWS, Format, Part
from backend.adapters.lora_file import Adapter
from backend.adapters.matching import ADDED_TO_BIAS, REPLACES_BIAS, Match
from backend.adapters.target import DENOISER, Target, swapped_halves
from backend.weights.low_rank import Factors, LowRank, Product
from backend.weights.packing import Packing
from backend.weights.source import PlainStorage, TensorSpec, WeightSource

_PIECE = 2**20  # numbers of a weight that are computed at a time: with fewer, threads wait for Python's lock


def _everywhere(_: str) -> float:
    return 1.0


@dataclass(frozen=True, kw_only=True)
class PlacedAdapter:
    """An adapter and how much of it is added.

    text_encoder_strength: None for the same as `strength`. factor: of a key of the model, times the strength.
    max_rank: how many of the ranks of a LoRA count, None for all; its scale stays the same.
    """

    adapter: Adapter
    strength: float = 1.0
    text_encoder_strength: float | None = None
    factor: Callable[[str], float] = _everywhere
    max_rank: int | None = None

    def strength_at(self, key: str, component: str) -> float:
        text = self.text_encoder_strength
        return (self.strength if component == DENOISER or text is None else text) * self.factor(key)


@dataclass(frozen=True, kw_only=True)
class _Change:
    """What one module adds to one key. format: None for the bias."""

    adapter: Adapter
    module: str
    target: Target
    format: Format | None
    strength: float
    max_rank: int | None

    @property
    def identity(self) -> str:
        target = (self.target.rows, self.target.is_swapped, self.target.is_transposed)
        how = (self.format.name if self.format else "bias", target, self.strength, self.max_rank)
        return f"{self.adapter.identity(self.module)} {how}"

    @property
    def dtype(self) -> torch.dtype:
        """In which its numbers can be held beside a weight without rounding them."""
        specs = [self.adapter.source.spec(key) for key in self.adapter.modules[self.module].values()]
        is_wide = any(spec.dtype.itemsize > 2 for spec in specs if spec.num_elements > 1)
        return torch.float32 if is_wide else torch.float16


class Deltas:
    """What adapters add to the weights of a model.

    `delta_of` is how a source of merged weights takes them in before anything is rounded.
    """

    def __init__(self, source: WeightSource, uses: Sequence[PlacedAdapter], family: str) -> None:
        """Compares names and shapes alone. Raises UnknownName for a family that takes no adapters.

        Modules that do not fit are left out: `Adapter.report` says which, and refuses a wrong model.
        """
        self._source = source
        self._changes: dict[str, list[_Change]] = {}
        aliases = aliases_of(named_targets(specs_of(source), family))
        for use in uses:
            for found in use.adapter.matches(aliases):
                if isinstance(found, Match):
                    self._add(use, found)

    @property
    def keys(self) -> frozenset[str]:
        """Of the weights that become others."""
        return frozenset(self._changes)

    def identity_of(self, key: str) -> str:
        """Of what is added to a weight; "" for nothing."""
        if key not in self._changes:
            return ""
        return hashlib.sha256("\0".join(change.identity for change in self._changes[key]).encode()).hexdigest()

    def delta_for(self, key: str) -> Tensor | None:
        """What is added to a whole weight, float32; None for nothing. Raises BadCheckpoint."""
        delta = self.delta_of(key)
        if delta is None:
            return None
        whole = torch.zeros(self._source.spec(key).shape)
        delta.add_to(whole, ALL_ROWS)
        return whole

    def delta_of(self, key: str) -> Delta | None:
        """What is added to a weight, to be added piece by piece; None for nothing. Raises BadCheckpoint.

        The model's weight is read only where a format needs it: LoRA, LoHa, LoKr and full differences do not.
        """
        if key not in self._changes:
            return None
        original = Original(self._source, key)
        return Delta([_Prepared(change, original) for change in self._changes[key]])

    def low_rank_of(self, key: str) -> LowRank | None:
        """What is added to a weight as products of narrow matrices, by shapes alone; None where that is not possible,
        or takes more memory than `LowRank` is there to save."""
        changes = self._changes[key]
        shape, original = self._source.spec(key).shape, Original(self._source, key)
        products = [product for change in changes if (product := _product(change, original)) is not None]
        if len(products) < len(changes) or len(shape) < 2:
            return None
        dtype = torch.float32 if any(change.dtype == torch.float32 for change in changes) else torch.float16
        return LowRank(width=math.prod(shape[1:]), dtype=dtype, products=tuple(products))

    def _add(self, use: PlacedAdapter, found: Match) -> None:
        for key, format in ((found.target.weight, found.format), (found.target.bias, None)):
            is_wanted = found.format is not None if key == found.target.weight else found.changes_bias
            if not key or not is_wanted:
                continue
            strength = use.strength_at(key, found.target.component)
            if strength:
                change = _Change(
                    adapter=use.adapter,
                    module=found.module,
                    target=found.target,
                    format=format,
                    strength=strength,
                    max_rank=use.max_rank,
                )
                self._changes.setdefault(key, []).append(change)


def patched(
    source: WeightSource,
    uses: Sequence[PlacedAdapter],
    family: str,
    *,
    wide_dtype: torch.dtype = torch.float16,
) -> WeightSource:
    """The model with adapters; the source itself where none of them touches it.

    Touched weights are computed in float32 and rounded once, to the type that they are stored as. Rounded to eight bits
    or fewer, most of what an adapter adds would be lost: packed weights stay as they are, and products are kept beside
    them (backend/weights/low_rank.py); what is no product makes numbers of `wide_dtype` of them (`Patched.widened`).
    Reads nothing yet. Raises UnknownName; reading raises BadCheckpoint.
    """
    deltas = Deltas(source, uses, family)
    return Patched(source, deltas, wide_dtype) if deltas.keys else source


class Patched(PlainStorage):
    """A source in which some weights are those of another plus deltas."""

    def __init__(self, source: WeightSource, deltas: Deltas, wide_dtype: torch.dtype) -> None:
        self._source = source
        self._wide_dtype = wide_dtype
        self._packings: dict[str, Packing | None] = {}  # of touched weights
        self.deltas = deltas

    @cached_property
    def widened(self) -> tuple[str, ...]:
        """Packed weights that take as much memory as unpacked ones, because what is added to them is no product."""
        keys = [key for key in self.keys() if key in self.deltas.keys]
        return tuple(key for key in keys if self._source.packing(key) is not None and self.packing(key) is None)

    @property
    def bytes_of_widening(self) -> int:
        """How much more memory `widened` take than packed."""
        return sum(self.storage_bytes(key) - self._source.storage_bytes(key) for key in self.widened)

    def keys(self) -> Sequence[str]:
        return self._source.keys()

    def spec(self, key: str) -> TensorSpec:
        spec = self._source.spec(key)
        if key not in self.deltas.keys:
            return spec
        is_narrow = spec.dtype.itemsize == 1 or self._source.packing(key) is not None
        return TensorSpec(spec.shape, self._wide_dtype) if is_narrow else spec

    def read(self, key: str) -> Tensor:
        if key not in self.deltas.keys:
            return self._source.read(key)
        spec = self.spec(key)
        out = torch.empty(spec.shape, dtype=spec.dtype)
        self.read_into(key, out)
        return out

    def read_into(self, key: str, out: Tensor) -> None:
        if key not in self.deltas.keys:
            self._source.read_into(key, out)
            return
        dtype, original, delta = self.spec(key).dtype, Original(self._source, key), self.deltas.delta_of(key)
        for rows in pieces(out.shape):
            piece = original.rows(rows)
            if delta is not None:
                delta.add_to(piece, rows)
            out[rows].copy_(piece if out.dtype == dtype else piece.to(dtype))

    def is_made(self, key: str) -> bool:
        return key in self.deltas.keys or self._source.is_made(key)

    def packing(self, key: str) -> Packing | None:
        if key not in self.deltas.keys:
            return self._source.packing(key)
        if key not in self._packings:
            self._packings[key] = self._with_products(key)
        return self._packings[key]

    def storage_bytes(self, key: str) -> int:
        return self._source.storage_bytes(key) if self._is_stored(key) else super().storage_bytes(key)

    def read_storage(self, key: str) -> Tensor:
        return self._source.read_storage(key) if self._is_stored(key) else super().read_storage(key)

    def read_storage_into(self, key: str, out: Tensor) -> None:
        if self._is_stored(key):
            self._source.read_storage_into(key, out)
        else:
            super().read_storage_into(key, out)

    def identity(self, key: str) -> str:
        base = self._source.identity(key)
        if key not in self.deltas.keys:
            return base
        content = f"{base}\0{self.deltas.identity_of(key)}\0{self.spec(key).dtype}"
        return hashlib.sha256(content.encode()).hexdigest()

    def _is_stored(self, key: str) -> bool:
        """Whether the bytes are those of the source, perhaps with something beside them."""
        return key not in self.deltas.keys or self.packing(key) is not None

    def _with_products(self, key: str) -> Packing | None:
        packing = self._source.packing(key)
        low_rank = None if packing is None else self.deltas.low_rank_of(key)
        if packing is None or low_rank is None:
            return None
        if packing.low_rank is not None:
            low_rank = packing.low_rank.joined(low_rank)
        if self._source.storage_bytes(key) + low_rank.num_bytes >= self.spec(key).num_bytes:
            return None
        return replace(packing, low_rank=low_rank)

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._source.metadata

    @property
    def origin(self) -> Path:
        return self._source.origin


class Original:
    """A weight of a model without adapters, of which rows are made float32 as they are wanted."""

    def __init__(self, source: WeightSource, key: str) -> None:
        self.shape = source.spec(key).shape
        self._source, self._key = source, key

    @cached_property
    def _packing(self) -> Packing | None:
        packing = self._source.packing(self._key)
        return None if packing is None or packing.low_rank is not None else packing

    @cached_property
    def _stored(self) -> Tensor:
        return self._source.read_storage(self._key) if self._packing else self._source.read(self._key)

    def rows(self, rows: slice) -> Tensor:
        """In memory of their own. Raises BadCheckpoint."""
        if self._packing is None:
            return (self._stored[rows] if self.shape else self._stored).to(torch.float32, copy=True)
        return self._packing.unpack(self._stored.view(-1, self._packing.row_bytes)[rows], torch.float32)


class Delta:
    """What all adapters together add to one weight. Held only while that weight is computed."""

    def __init__(self, changes: Sequence[_Prepared]) -> None:
        self._changes = changes

    def add_to(self, out: Tensor, rows: slice) -> None:
        """Add what belongs to those rows (or elements) of the weight to `out`, which has only these; float32."""
        for change in self._changes:
            change.add_to(out, rows)


class _Prepared:
    """A change whose tensors are read."""

    def __init__(self, change: _Change, original: Original) -> None:
        self._target, self._format = change.target, change.format
        self._original = original
        self._part = Part(
            tensors={name: t for name, t in change.adapter.read(change.module).items() if self._is_needed(name)},
            shape=change.target.shape,
            weight=self._weight,
            strength=change.strength,
            max_rank=change.max_rank,
            scaling=change.adapter.scaling(change.module),
        )
        is_straight = not (self._target.is_swapped or self._target.is_transposed)
        self._is_by_rows = self._format is not None and is_straight and self._format.is_by_rows(self._part)

    def add_to(self, out: Tensor, rows: slice) -> None:
        """Add what belongs to those rows of the weight to `out`."""
        first, end, _ = rows.indices(self._original.shape[0])
        low, high = self._target.rows or (0, self._original.shape[0])
        begin, stop = max(first, low), min(end, high)
        if begin >= stop:
            return
        wanted, place = slice(begin - low, stop - low), out[begin - first : stop - first]
        if self._format is None or not self._is_by_rows:
            place.add_(self._whole[wanted])
        elif self._format.add is not None:
            self._format.add(self._part, wanted, place)
        else:
            place.add_(self._format.delta(self._part, wanted))

    def factors(self) -> Factors:
        """Of a format that is a product, for the rows of the weight that it is added to."""
        assert self._format is not None
        assert self._format.product is not None
        found = self._format.product.factors(self._part)
        up = swapped_halves(found.up) if self._target.is_swapped else found.up
        return replace(found, up=found.down.mT, down=up.mT) if self._target.is_transposed else replace(found, up=up)

    @cached_property
    def _whole(self) -> Tensor:
        """Of formats that can do no less, and of biases."""
        delta = self._bias_delta() if self._format is None else self._format.delta(self._part, ALL_ROWS)
        return self._target.restored(delta)

    def _bias_delta(self) -> Tensor:
        added = [self._part.tensors[name].reshape(-1) for name in ADDED_TO_BIAS[:2] if name in self._part.tensors]
        if REPLACES_BIAS in self._part.tensors:
            added.append(self._part.tensors[REPLACES_BIAS].reshape(-1) - self._weight(ALL_ROWS))
        if "ia3_l" in self._part.tensors:
            added.append((self._part.tensors["ia3_l"].reshape(-1) - 1) * self._weight(ALL_ROWS))
        delta = self._part.strength * torch.stack(added).sum(0) if added else torch.zeros(self._part.shape[0])
        if "up_bias" in self._part.tensors:  # of the product's second layer, so it has the product's scale
            rank = self._part.tensors["down"].shape[0] if "down" in self._part.tensors else 1
            delta = delta + self._part.scale(rank) * self._part.tensors["up_bias"].reshape(-1)
        return delta

    def _weight(self, rows: slice) -> Tensor:
        """Rows of the part of the weight that the adapter sees, as it sees it."""
        if self._target.is_swapped or self._target.is_transposed:
            return self._target.cut(self._original.rows(ALL_ROWS))[rows]
        low, high = self._target.rows or (0, self._original.shape[0])
        first, end, _ = rows.indices(high - low)
        return self._original.rows(slice(low + first, low + end))

    def _is_needed(self, name: str) -> bool:
        is_of_bias = name in ADDED_TO_BIAS or name == REPLACES_BIAS
        return not is_of_bias or self._format is None


def _product(change: _Change, original: Original) -> Product | None:
    if change.format is None or change.format.product is None:
        return None
    low, high = change.target.rows or (0, original.shape[0])
    return Product(
        rows=(low, high),
        rank=change.format.product.ranks(change.adapter.shapes(change.module), change.max_rank),
        read=lambda: _Prepared(change, original).factors(),
        within=(0, high - low),
    )


def pieces(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows of a weight, some at a time; everything of a single number."""
    if not shape:
        yield ALL_ROWS
        return
    step = max(1, _PIECE // max(1, math.prod(shape[1:])))
    yield from (slice(first, min(first + step, shape[0])) for first in range(0, shape[0], step))
