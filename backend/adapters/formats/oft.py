"""OFT and BOFT: blocks of rows, rotated. arXiv:2306.07280 and arXiv:2311.06243."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backend.adapters.format import ALL_ROWS, Format, Part, Shapes


def _oft_delta(part: Part, rows: slice) -> Tensor:
    """Block k of the rows: (s (R_k - 1) + 1)^T W_k."""
    weight = part.weight(ALL_ROWS)
    rotations = _weighted(_rotations(part.tensors["oft_blocks"], _constraint(part)), part.strength)
    blocks = weight.reshape(rotations.shape[0], rotations.shape[1], -1)
    return (rescaled(part, (rotations.mT @ blocks).reshape(part.shape)) - weight)[rows]


def _boft_delta(part: Part, rows: slice) -> Tensor:
    """Stage i rotates groups of rows that lie 2^i half blocks apart."""
    weight = part.weight(ALL_ROWS)
    out = weight.reshape(part.shape[0], -1)
    stages = _weighted(_rotations(part.tensors["oft_blocks"], _constraint(part)), part.strength)
    for index, rotations in enumerate(stages):
        num_blocks, size = rotations.shape[:2]
        distance = 2**index * (size // 2)
        gathered = out.reshape(-1, 2, distance, out.shape[1]).transpose(1, 2)
        turned = rotations @ gathered.reshape(num_blocks, size, out.shape[1])
        out = turned.reshape(gathered.shape).transpose(1, 2).reshape(out.shape)
    return (rescaled(part, out.reshape(part.shape)) - weight)[rows]


def _rotations(blocks: Tensor, constraint: float) -> Tensor:
    """Cayley: (1 + Q)(1 - Q)^-1 of the skew part Q of each block [..., b, b]; the norm of all together is bounded."""
    skew = (blocks - blocks.mT).double()
    norm = float(skew.norm())
    if 0 < constraint < norm:
        skew = skew * (constraint / norm)
    identity = torch.eye(blocks.shape[-1], dtype=skew.dtype)
    return torch.linalg.solve(identity - skew, identity + skew, left=False).float()


def _constraint(part: Part) -> float:
    """alpha is no scale here: it bounds the rotation, together with the number of outputs. 0 for none."""
    return (part.alpha or 0.0) * part.shape[0]


def _weighted(rotations: Tensor, strength: float) -> Tensor:
    return torch.lerp(torch.eye(rotations.shape[-1]).expand_as(rotations), rotations, strength)


def rescaled(part: Part, rotated: Tensor) -> Tensor:
    """Rows times their scales, where the file has some; the strength weighs them like the rotations."""
    if "rescale" not in part.tensors:
        return rotated
    factor = 1 + part.strength * (part.tensors["rescale"].reshape(-1) - 1)
    return rotated * factor.view(-1, *[1] * (rotated.ndim - 1))


def _fits(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    """The blocks of a stage cover all rows once."""
    blocks = shapes["oft_blocks"]
    if len(blocks) not in (3, 4) or len(shape) < 2 or blocks[-1] != blocks[-2]:
        return False
    if math.prod(shapes.get("rescale", shape[:1])) != shape[0] or not min(blocks):
        return False
    is_whole = blocks[-3] * blocks[-2] == shape[0]
    widest = 2 ** (blocks[0] - 1) * blocks[-1] if len(blocks) == 4 else 1
    return is_whole and shape[0] % widest == 0 and (len(blocks) == 3 or blocks[-1] % 2 == 0)


def _delta(part: Part, rows: slice) -> Tensor:
    return (_oft_delta if part.tensors["oft_blocks"].ndim == 3 else _boft_delta)(part, rows)


def _block_size(shapes: Shapes) -> int | None:
    return shapes["oft_blocks"][-1]


OFT = Format(
    name="oft",
    label="OFT or BOFT",
    recognise=lambda names: "oft_blocks" in names,
    fits=_fits,
    delta=_delta,
    rank=_block_size,
    needs_weight=True,
)
