"""What a format of adapters is: which tensors it has for a module, and what these add to a weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]  # of a module's tensors, by what they are ("up", "alpha" ...)
ALL_ROWS = slice(None)


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What an adapter's metadata say about its strength, where the file has no tensor for it.

    alpha: None for the rank, which is a scale of 1. is_rank_stabilised: divided by the root of the rank (rsLoRA).
    """

    alpha: float | None = None
    is_rank_stabilised: bool = False


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
        alpha = self.alpha
        alpha = float(rank) if alpha is None else alpha
        return self.strength * alpha / (math.sqrt(rank) if self.scaling.is_rank_stabilised else rank)

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


@dataclass(frozen=True, kw_only=True)
class Format:
    """A registered format.

    recognise: whether a module with these tensors is of it. The first format of all that says yes is taken.
    fits: whether tensors of these shapes can be added to a weight of that shape.
    delta: what is added to those rows of the weight, [rows, ...] in float32, times the strength.
    add: adds the same to those rows, given as they are, in place; None where that is no cheaper.
    is_by_rows: whether a few rows cost no more than their share.
    needs_weight: whether the model's weight decides what is added, so that it means nothing without one.
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


def width(shape: tuple[int, ...]) -> int:
    """Of a weight as a matrix [out, everything else]."""
    return math.prod(shape[1:])


def as_matrix(tensor: Tensor) -> Tensor:
    return tensor.flatten(1)


def tucker(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """core [m, n, kh, kw] between up [out, m] and down [n, in] -> [out, in, kh, kw]."""
    return torch.einsum("om,mnkl,ni->oikl", up, core, down)
