"""LoRA and LoCon: a product of two matrices, for convolutions perhaps with a core between them (Tucker).

Hu et al. 2021, arXiv:2106.09685; LyCORIS, arXiv:2309.14859; rsLoRA, arXiv:2312.03732.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backend.adapters.format import AsProduct, Format, Part, Shapes, always, as_matrix, tucker, width
from backend.weights.low_rank import Factors


def _delta(part: Part, rows: slice) -> Tensor:
    """up [out, r], down [r, in, ...]: (alpha / r) up @ down."""
    up, down = _factors(part, rows)
    if "mid" in part.tensors:
        return tucker(part.tensors["mid"], up, down)
    return part.shaped(up @ down)


def _add(part: Part, rows: slice, out: Tensor) -> None:
    if "mid" in part.tensors or not out.is_contiguous():
        out.add_(_delta(part, rows))
    else:
        up, down = _factors(part, rows)
        out.view(up.shape[0], -1).addmm_(up, down)


def _factors(part: Part, rows: slice) -> tuple[Tensor, Tensor]:
    """Rows of up with the scale in them, and down as a matrix. With a core between them, all ranks count."""
    up, down = as_matrix(part.tensors["up"])[rows], as_matrix(part.tensors["down"])
    count = None if "mid" in part.tensors else part.max_rank
    return part.scale(down.shape[0]) * up[:, :count], down[:count]


def _product(part: Part) -> Factors:
    """A core is multiplied into down."""
    up, down = as_matrix(part.tensors["up"]), as_matrix(part.tensors["down"])
    scale = part.scale(down.shape[0])
    if "mid" in part.tensors:
        return Factors(up=up, down=torch.einsum("mnkl,ni->mikl", part.tensors["mid"], down).flatten(1), scale=scale)
    return Factors(up=up[:, : part.max_rank], down=down[: part.max_rank], scale=scale)


def _num_ranks(shapes: Shapes, max_rank: int | None) -> int:
    if "mid" in shapes:
        return shapes["mid"][0]
    return min(shapes["down"][0], max_rank or shapes["down"][0])


def _fits(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    up, down = shapes["up"], shapes["down"]
    if len(up) < 2 or len(down) < 2 or len(shape) < 2 or up[0] != shape[0] or not down[0]:
        return False
    if "mid" in shapes:
        mid = shapes["mid"]
        return len(shape) == 4 and mid == (up[1], down[0], *shape[2:]) and width(down) == shape[1]
    return width(up) == down[0] and width(down) == width(shape)


def _rank(shapes: Shapes) -> int | None:
    return shapes["down"][0]


LORA = Format(
    name="lora",
    label="LoRA",
    recognise=lambda names: {"up", "down"} <= names,
    fits=_fits,
    delta=_delta,
    rank=_rank,
    add=_add,
    is_by_rows=always,
    product=AsProduct(ranks=_num_ranks, factors=_product),
)
