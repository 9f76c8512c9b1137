"""GLoRA: a product that is added, and one through which the weight itself goes. arXiv:2306.07967."""

from __future__ import annotations

from torch import Tensor

from backend.adapters.format import Format, Part, Shapes, always, as_matrix, width

_TENSORS = {"a1", "a2", "b1", "b2"}


def _delta(part: Part, rows: slice) -> Tensor:
    """(alpha / r) (W @ a1 @ a2 + b1 @ b2); files of before LyCORIS 2 hold the factors of each product swapped."""
    a1, a2, b1, b2 = (part.tensors[name] for name in ("a1", "a2", "b1", "b2"))
    if _is_old(_shapes(part), part.shape):
        a1, a2, b1, b2 = a2, a1, b2, b1
    weight = as_matrix(part.weight(rows))
    return part.shaped(part.scale(a1.shape[1]) * (weight @ a1 @ a2 + b1[rows] @ b2))


def _shapes(part: Part) -> Shapes:
    return {name: tuple(part.tensors[name].shape) for name in _TENSORS}


def _is_new(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    """a1 [in, r], a2 [r, in], b1 [out, r], b2 [r, in]."""
    (a1, a2, b1, b2), inputs = (shapes[name] for name in ("a1", "a2", "b1", "b2")), width(shape)
    return (
        a1[0] == inputs == a2[1] == b2[1] and b1[0] == shape[0] and a1[1] == a2[0] and b1[1] == b2[0]
    )  # fmt: skip


def _is_old(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    """Where a rank as large as the weight makes both possible, files of a square weight are old ones."""
    swapped = {"a1": shapes["a2"], "a2": shapes["a1"], "b1": shapes["b2"], "b2": shapes["b1"]}
    return _is_new(swapped, shape)


def _fits(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    if len(shape) < 2 or any(len(shapes[name]) != 2 or not min(shapes[name]) for name in _TENSORS):
        return False
    return _is_new(shapes, shape) or _is_old(shapes, shape)


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
