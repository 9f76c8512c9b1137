"""Products of narrow matrices that are added to what a layer computes: adapters on weights that stay packed.

y = W x + up (scale * (down x)), so that neither the weight nor its sum with up @ down is ever rounded.
"""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

Span = tuple[int, int]  # first and end


class LowRank(Protocol):
    """down: [ranks, width of the weight's rows]. scales: of each rank, float32. blocks: rows of the output, ranks, and
    `up` [rows, ranks]: what these ranks add to those rows."""

    @property
    def down(self) -> Tensor: ...
    @property
    def scales(self) -> Tensor: ...
    @property
    def blocks(self) -> tuple[tuple[Span, Span, Tensor], ...]: ...


def narrowed(low_rank: LowRank, x: Tensor) -> Tensor:
    """Inputs of a linear layer [..., width] -> [N, ranks]."""
    return F.linear(x, low_rank.down.to(x.dtype)).reshape(-1, low_rank.down.shape[0]).mul_(low_rank.scales)


def add_products(low_rank: LowRank, hidden: Tensor, out: Tensor, first: int = 0) -> None:
    """Add to `out` [N, outputs] in place, whose outputs begin with number `first`. hidden: [N, ranks], scaled."""
    for (low, high), (begin, end), up in low_rank.blocks:
        start, stop = max(low, first), min(high, first + out.shape[1])
        if start < stop:
            place = out[:, start - first : stop - first]
            place.addmm_(hidden[:, begin:end], up[start - low : stop - low].to(hidden.dtype).mT)


def add_to_image(low_rank: LowRank, hidden: Tensor, out: Tensor) -> None:
    """The same for convolutions: hidden [B, ranks, H, W], not scaled yet, and out [B, outputs, H, W]."""
    for ranks, image in zip(hidden.mul_(low_rank.scales[:, None, None]), out, strict=True):
        add_products(low_rank, ranks.flatten(1).mT, image.view(image.shape[0], -1).mT)
