"""What a format of adapters is: which tensors it has for a module, and what these add to a weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backend.weights.low_rank import Factors

Shapes = Mapping[str, tuple[int, ...]]  # of a module's tensors, by what they are ("up", "alpha" ...)
ALL_ROWS = slice(None)


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """How PEFT's OFT makes a rotation of its numbers.

    num_terms: of the Neumann series that stands for the inverse in Cayley's formula; None for the inverse itself.
    max_norm: of the numbers of one block, times the root of the number of blocks (COFT); None for no bound.
    """

    num_terms: int | None = 5
    max_norm: float | None = None


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What an adapter's metadata say about what its tensors mean, where the file has no tensor for it.

    alpha: None for the rank, which is a scale of 1. is_rank_stabilised: divided by the root of the rank (rsLoRA).
    rank: where the tensors do not tell. num_parts: how many products lie side by side in one, each with its share of
    the ranks and with all of alpha.
    """

    alpha: float | None = None
    is_rank_stabilised: bool = False
    rank: int | None = None
    num_parts: int = 1
    rotation: Rotation = field(default_factory=Rotation)


@dataclass(frozen=True, kw_only=True)
class Part:
    """All that a format needs to know of one module.

    tensors: float32. shape: of the weight as the adapter sees it. strength: 1 adds what was trained.
    weight: rows of the model's weight as the adapter sees it and without any adapter, float32, not to be written to.
    max_rank: how many of the ranks count; the scale stays that of all of them.
    """

    tensors: Mapping[str, Tensor]
    shape: tuple[int, ...]
    weight: Callable[[slice], Tensor]
    strength: float = 1.0
    max_rank: int | None = None
    scaling: Scaling = field(default_factory=Scaling)

    def scale(self, rank: int) -> float:
        """Strength times alpha / rank. A file without alpha means the rank."""
        share = rank / self.scaling.num_parts
        alpha = share if self.alpha is None else self.alpha
        return self.strength * alpha / (math.sqrt(share) if self.scaling.is_rank_stabilised else share)

    @property
    def alpha(self) -> float | None:
        return float(self.tensors["alpha"]) if "alpha" in self.tensors else self.scaling.alpha

    def shaped(self, rows: Tensor) -> Tensor:
        """Some rows of a matrix [out, everything else] -> the same rows of the weight."""
        return rows.reshape(-1, *self.shape[1:])


def always(_: Part) -> bool:
    return True


def never(_: Part) -> bool:
    return False


def _no_rank(_: Shapes) -> int | None:
    return None


def _never_scales(_: Shapes, __: tuple[int, ...]) -> bool:
    return False


def _no_problem(_: Mapping[str, Tensor]) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class AsProduct:
    """What a format adds as scale * up @ down, for weights that take nothing in (backend/weights/low_rank.py).

    ranks: of a module with tensors of these shapes, of which at most so many are to count; None for all.
    factors: of the whole weight as a matrix [out, everything else].
    """

    ranks: Callable[[Shapes, int | None], int]
    factors: Callable[[Part], Factors]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A registered format.

    recognise: whether a module with these tensors is of it. The first format of all that says yes is taken.
    fits: whether tensors of these shapes can be added to a weight of that shape.
    delta: what is added to those rows of the weight, [rows, ...] in float32, times the strength.
    add: adds the same to those rows, given as they are, in place; None where that is no cheaper.
    is_by_rows: whether a few rows cost no more than their share.
    needs_weight: whether the model's weight decides what is added, so that it means nothing without one.
    product: how it is a product of two matrices; None for a format that is none.
    problem: what is wrong with numbers whose shapes are right, for the user; "" for nothing.
    scales_bias: whether the format changes the bias, too, of a module with tensors of these shapes.
    """

    name: str
    label: str
    recognise: Callable[[frozenset[str]], bool]
    fits: Callable[[Shapes, tuple[int, ...]], bool]
    delta: Callable[[Part, slice], Tensor]
    rank: Callable[[Shapes], int | None] = _no_rank
    add: Callable[[Part, slice, Tensor], None] | None = None
    is_by_rows: Callable[[Part], bool] = never
    needs_weight: bool = False
    product: AsProduct | None = None
    problem: Callable[[Mapping[str, Tensor]], str] = _no_problem
    scales_bias: Callable[[Shapes, tuple[int, ...]], bool] = _never_scales

    @property
    def checks_numbers(self) -> bool:
        return self.problem is not _no_problem


def width(shape: tuple[int, ...]) -> int:
    """Of a weight as a matrix [out, everything else]."""
    return math.prod(shape[1:])


def as_matrix(tensor: Tensor) -> Tensor:
    return tensor.flatten(1)


def tucker(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """core [m, n, kh, kw] between up [out, m] and down [n, in] -> [out, in, kh, kw]."""
    return torch.einsum("om,mnkl,ni->oikl", up, core, down)
