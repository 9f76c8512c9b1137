"""LoRA and LoCon: a product of two matrices, for convolutions perhaps with a core between them (Tucker).

Hu et al. 2021, arXiv:2106.09685; LyCORIS, arXiv:2309.14859; rsLoRA, arXiv:2312.03732.
"""

from __future__ import annotations

from torch import Tensor

from backend.adapters.format import Format, Part, Shapes, as_matrix, tucker, width


def _delta(part: Part, rows: slice) -> Tensor:
    """up [out, r], down [r, in, ...]: (alpha / r) up @ down."""
    up, down = as_matrix(part.tensors["up"])[rows], part.tensors["down"]
    rank = down.shape[0]
    if "mid" in part.tensors:
        return part.scale(rank) * tucker(part.tensors["mid"], up, as_matrix(down))
    return part.shaped((part.scale(rank) * up[:, : part.max_rank]) @ as_matrix(down)[: part.max_rank])


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
    is_by_rows=True,
)
