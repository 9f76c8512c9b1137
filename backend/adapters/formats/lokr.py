"""LoKr: the Kronecker product of a small matrix and a larger one, each perhaps a product itself. arXiv:2212.10650."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backend.adapters.format import Format, Part, Shapes, tucker


def _delta(part: Part, rows: slice) -> Tensor:
    """kron(w1, w2), times alpha / r where one of both is a product."""
    w1, w2 = _factor(part, 1), _factor(part, 2)
    rank = _rank(_shapes(part)) or part.scaling.rank  # PEFT scales whole factors, too
    scale = part.scale(rank) if rank else part.strength
    if len(part.shape) == 4:
        w2 = w2.reshape(w2.shape[0], part.shape[1] // w1.shape[1], *part.shape[2:])
        w1 = w1[:, :, None, None]
    return part.shaped(scale * torch.kron(w1, w2))[rows]


def _factor(part: Part, index: int) -> Tensor:
    name = f"lokr_w{index}"
    if name in part.tensors:
        return part.tensors[name]
    a, b = part.tensors[f"{name}_a"], part.tensors[f"{name}_b"]
    core = part.tensors.get(f"lokr_t{index}")
    return a @ b.flatten(1) if core is None else tucker(core, a.mT, b)  # with a core, a is [r, out]


def _fits(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    first, second = _factor_shape(shapes, 1), _factor_shape(shapes, 2)
    if first is None or second is None or len(first) != 2 or len(shape) < 2 or shape[1] % max(1, first[1]):
        return False
    return first[0] * second[0] == shape[0] and first[1] * math.prod(second[1:]) == math.prod(shape[1:])


def _factor_shape(shapes: Shapes, index: int) -> tuple[int, ...] | None:
    name = f"lokr_w{index}"
    if name in shapes:
        return shapes[name] if len(shapes[name]) >= 2 else None
    a, b = shapes[f"{name}_a"], shapes[f"{name}_b"]
    if len(a) < 2 or len(b) < 2 or not b[0]:
        return None
    if (core := shapes.get(f"lokr_t{index}")) is not None:
        return (a[1], b[1], *core[2:]) if core[:2] == (a[0], b[0]) else None
    return (a[0], math.prod(b[1:])) if a[1] == b[0] else None


def _shapes(part: Part) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in part.tensors.items()}


def _rank(shapes: Shapes) -> int | None:
    """The second factor's where both are products."""
    return next((shapes[name][0] for name in ("lokr_w2_b", "lokr_w1_b") if name in shapes), None)


def _recognise(names: frozenset[str]) -> bool:
    return all(f"lokr_w{i}" in names or {f"lokr_w{i}_a", f"lokr_w{i}_b"} <= names for i in (1, 2))


LOKR = Format(name="lokr", label="LoKr", recognise=_recognise, fits=_fits, delta=_delta, rank=_rank)
