"""LoHa: two products, multiplied number by number. FedPara, arXiv:2108.06098."""

from __future__ import annotations

from torch import Tensor

from backend.adapters.format import Format, Part, Shapes, always, tucker, width

_FACTORS = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}


def _delta(part: Part, rows: slice) -> Tensor:
    """(alpha / r) (w1_a @ w1_b) * (w2_a @ w2_b)."""
    rank = part.tensors["hada_w1_b"].shape[0]
    return part.shaped(part.scale(rank) * _product(part, 1, rows) * _product(part, 2, rows))


def _product(part: Part, index: int, rows: slice) -> Tensor:
    a, b = part.tensors[f"hada_w{index}_a"], part.tensors[f"hada_w{index}_b"]
    if "hada_t1" in part.tensors:
        return tucker(part.tensors[f"hada_t{index}"], a.mT[rows], b)  # a [r, out] here
    return a[rows] @ b


def _fits(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    return all(_fits_one(shapes, shape, index) for index in (1, 2))


def _fits_one(shapes: Shapes, shape: tuple[int, ...], index: int) -> bool:
    a, b = shapes[f"hada_w{index}_a"], shapes[f"hada_w{index}_b"]
    if len(a) != 2 or len(b) != 2 or not b[0]:
        return False
    if "hada_t1" in shapes:
        core = shapes.get(f"hada_t{index}", ())
        return len(shape) == 4 and a[1] == shape[0] and b[1] == shape[1] and core == (a[0], b[0], *shape[2:])
    return a[0] == shape[0] and a[1] == b[0] and b[1] == width(shape)


def _rank(shapes: Shapes) -> int | None:
    return shapes["hada_w1_b"][0]


LOHA = Format(
    name="loha",
    label="LoHa",
    recognise=lambda names: names >= _FACTORS,
    fits=_fits,
    delta=_delta,
    rank=_rank,
    is_by_rows=always,
)
