"""T-LoRA: singular vectors of a weight, trained on, minus what they were before. arXiv:2507.05964; LyCORIS 4.

Files hold the vectors as they became. What they began as is in few of them: the others began as singular vectors of
the model's own weight, which are found again here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backend.adapters.format import ALL_ROWS, Format, Part, Shapes, as_matrix, width

_TRAINED = ("p_layer", "lambda_layer", "q_layer")
_BEGINNING = ("base_p", "base_lambda", "base_q")


def _delta(part: Part, rows: slice) -> Tensor:
    """(alpha / r) (P diag(lambda) Q - what it was at first); p [out, r], lambda [r], q [r, in]."""
    rank, count = part.tensors["q_layer"].shape[0], part.max_rank
    now = _product(part, _TRAINED, count)
    has_beginning = part.tensors.keys() >= set(_BEGINNING)
    first = _product(part, _BEGINNING, count) if has_beginning else _singular_product(part, count)
    return part.shaped(part.scale(rank) * (now - first).float()[rows])


def _product(part: Part, names: tuple[str, ...], count: int | None) -> Tensor:
    p, values, q = (part.tensors[name].double() for name in names)
    return (as_matrix(p) * values.reshape(-1))[:, :count] @ as_matrix(q)[:count]


def _singular_product(part: Part, count: int | None) -> Tensor:
    """The part of the weight that belongs to the singular values with which training began.

    Those may be the largest, the smallest or the middle ones, and the file does not say which; its vectors have not
    turned far from where they began, so those are taken that they are nearest to.
    """
    weight, trained = as_matrix(part.weight(ALL_ROWS)).double(), as_matrix(part.tensors["q_layer"]).double()
    is_high = weight.shape[0] > weight.shape[1]
    gram = weight.mT @ weight if is_high else weight @ weight.mT
    vectors = torch.linalg.eigh(gram).eigenvectors.flip(1)  # the largest value first
    if not is_high:
        trained = as_matrix(part.tensors["p_layer"]).double().mT
    rank, most = trained.shape[0], vectors.shape[1]
    used = min(rank, most)
    nearness = (trained[:used] @ vectors).square()  # [r, every vector]
    starts = sorted({0, most - used, (most - used) // 2})
    sums = [float(nearness[:, first : first + used].diagonal().sum()) for first in starts]
    start = starts[sums.index(max(sums))]
    chosen = vectors[:, start : start + used][:, :count]
    return weight @ chosen @ chosen.mT if is_high else chosen @ (chosen.mT @ weight)


def _fits(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    """Of convolutions only those of one pixel: others are not trained by it."""
    p, values, q = (shapes[name] for name in _TRAINED)
    rank = q[0] if q else 0
    is_product = len(p) >= 2 and len(q) >= 2 and rank > 0 and p[0] == shape[0] and width(p) == rank
    has_values = math.prod(values) == rank and width(q) == width(shape) == (shape[1] if len(shape) > 1 else 0)
    beginning = [shapes.get(name) for name in _BEGINNING]
    return is_product and has_values and beginning in ([None] * 3, [p, values, q])


def _rank(shapes: Shapes) -> int | None:
    return next(iter(shapes["q_layer"]), None)


TLORA = Format(
    name="tlora",
    label="T-LoRA",
    recognise=lambda names: names >= set(_TRAINED),
    fits=_fits,
    delta=_delta,
    rank=_rank,
    needs_weight=True,
)
