"""PEFT's OFT: blocks of inputs, rotated. arXiv:2306.07280; its rotations are truncated series, arXiv:2506.19847."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backend.adapters.format import Format, Part, Rotation, Shapes, always, as_matrix, width


def _delta(part: Part, rows: slice) -> Tensor:
    """Block k of the inputs: W_k (s (R_k - 1) + 1)^T - W_k."""
    weight, numbers = as_matrix(part.weight(rows)), part.tensors["oft_R"].double()
    size = block_size(numbers.shape[1])
    turned = part.strength * (_rotations(_skew(numbers, size), part.scaling.rotation) - torch.eye(size))
    blocks = weight.double().view(weight.shape[0], -1, 1, size)
    return part.shaped((blocks @ turned.mT).reshape(weight.shape).float())


def block_size(count: int) -> int:
    """Of a block whose upper triangle has that many numbers."""
    return (1 + math.isqrt(1 + 8 * count)) // 2


def _skew(numbers: Tensor, size: int) -> Tensor:
    """[n, b (b - 1) / 2] -> [n, b, b]."""
    upper = numbers.new_zeros(numbers.shape[0], size, size)
    row, column = torch.triu_indices(size, size, 1)
    upper[:, row, column] = numbers
    return upper - upper.mT


def _rotations(skew: Tensor, rotation: Rotation) -> Tensor:
    if rotation.max_norm is not None:
        bound = rotation.max_norm / math.sqrt(skew.shape[0])
        skew = skew * (bound / skew.norm(dim=(1, 2), keepdim=True).clamp(min=bound))
    identity = torch.eye(skew.shape[-1], dtype=skew.dtype)
    if rotation.num_terms is None:
        return torch.linalg.solve(identity + skew, identity - skew, left=False)
    return _series(skew, identity, rotation.num_terms)


def _series(skew: Tensor, identity: Tensor, num_terms: int) -> Tensor:
    """1 + 2 Q + 2 Q^2 + ... + Q^(num_terms - 1): the last power counts once. PEFT's three terms are four."""
    out, power = identity.expand_as(skew), identity
    last = max(3, num_terms - 1) if num_terms > 2 else num_terms
    for exponent in range(1, num_terms if num_terms < 3 else last + 1):
        power = power @ skew
        out = out + (power if exponent == last else 2 * power)
    return out


def _fits(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    """One row of numbers for each block, or one row for all of them."""
    numbers = shapes["oft_R"]
    if len(numbers) != 2 or len(shape) < 2 or not min(numbers):
        return False
    size = block_size(numbers[1])
    is_triangle = size * (size - 1) // 2 == numbers[1]
    return is_triangle and width(shape) % size == 0 and numbers[0] in (1, width(shape) // size)


def _block_size(shapes: Shapes) -> int | None:
    return block_size(shapes["oft_R"][-1])


PEFT_OFT = Format(
    name="peft-oft",
    label="OFT of inputs",
    recognise=lambda names: "oft_R" in names,
    fits=_fits,
    delta=_delta,
    rank=_block_size,
    is_by_rows=always,
    needs_weight=True,
)
