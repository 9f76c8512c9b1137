"""GLoRA: a product that is added, and one through which the weight itself goes. arXiv:2306.07967."""

from __future__ import annotations

import torch
from torch import Tensor

from backend.adapters.format import Format, Part, Shapes, always, as_matrix, tucker, width

_TENSORS = {"a1", "a2", "b1", "b2"}
_SWAPPED = {"a1": "a2", "a2": "a1", "b1": "b2", "b2": "b1"}


def _delta(part: Part, rows: slice) -> Tensor:
    """(alpha / r) (W @ a1 @ a2 + b1 @ b2); files of before LyCORIS 2 hold the factors of each product swapped.

    Of a convolution the first product mixes its input channels; the second may have a core (Tucker).
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in part.tensors.items()}
    names = _SWAPPED if _is_product({new: shapes[old] for new, old in _SWAPPED.items()}, part.shape) else {}
    a1, a2, b1, b2 = (part.tensors[names.get(name, name)] for name in ("a1", "a2", "b1", "b2"))
    through = as_matrix(a1) @ as_matrix(a2)
    weight = torch.einsum("oi...,ij->oj...", part.weight(rows), through)
    if "bm" in part.tensors:
        added = tucker(part.tensors["bm"], as_matrix(b1)[rows], as_matrix(b2))
    else:
        added = part.shaped(as_matrix(b1)[rows] @ as_matrix(b2))
    return part.scale(a1.shape[1]) * (weight + added)


def _is_product(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    """a1 [in, r], a2 [r, in], b1 [out, r], b2 [r, in, ...]; of convolutions all with the sides of their kernels."""
    (a1, a2, b1, b2), inputs = (shapes[name] for name in ("a1", "a2", "b1", "b2")), shape[1]
    core = shapes.get("bm")
    ends = width(b2) == (inputs if core else width(shape)) and (core is None or core == (b1[1], b2[0], *shape[2:]))
    through = a1[:2] == (inputs, a2[0]) and a2[1] == inputs and width(a1) == a2[0] and width(a2) == inputs
    return ends and through and b1[:2] == (shape[0], b2[0]) and width(b1) == b2[0]


def _fits(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    """Where a rank as large as the weight makes both orders possible, files of a square weight are old ones."""
    if len(shape) < 2 or any(len(shapes[name]) < 2 or not min(shapes[name]) for name in _TENSORS):
        return False
    swapped = {new: shapes[old] for new, old in _SWAPPED.items()}
    return _is_product(shapes, shape) or _is_product(swapped, shape)


def _rank(shapes: Shapes) -> int | None:
    return min(shapes["a1"])


GLORA = Format(
    name="glora",
    label="GLoRA",
    recognise=lambda names: names >= _TENSORS,
    fits=_fits,
    delta=_delta,
    rank=_rank,
    is_by_rows=always,
    needs_weight=True,
)
