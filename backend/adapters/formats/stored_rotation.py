"""The OFT of early LyCORIS, whose files hold the rotations themselves, under the name `oft_diag`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backend.adapters.format import ALL_ROWS, Format, Part, Shapes
from backend.adapters.formats.oft import rescaled


def _delta(part: Part, rows: slice) -> Tensor:
    """Block k of the rows: (s (R_k - 1) + 1)^T W_k - W_k."""
    weight, stored = part.weight(ALL_ROWS), part.tensors["oft_diag"]
    rotations = torch.lerp(torch.eye(stored.shape[-1]).expand_as(stored), stored, part.strength)
    blocks = weight.reshape(stored.shape[0], stored.shape[1], -1)
    return (rescaled(part, (rotations.mT @ blocks).reshape(part.shape)) - weight)[rows]


def _fits(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    blocks = shapes["oft_diag"]
    if len(blocks) != 3 or len(shape) < 2 or not min(blocks):
        return False
    has_scales = "rescale" not in shapes or math.prod(shapes["rescale"]) == shape[0]
    return blocks[1] == blocks[2] and blocks[0] * blocks[1] == shape[0] and has_scales


def _block_size(shapes: Shapes) -> int | None:
    return next(iter(shapes["oft_diag"][-1:]), None)


STORED_ROTATION = Format(
    name="oft-diag",
    label="OFT with its rotations stored",
    recognise=lambda names: "oft_diag" in names,
    fits=_fits,
    delta=_delta,
    rank=_block_size,
    needs_weight=True,
)
