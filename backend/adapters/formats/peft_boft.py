"""PEFT's BOFT: inputs rotated in several stages, and outputs scaled. arXiv:2311.06243."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backend.adapters.format import Format, Part, Shapes, always, as_matrix, width


def _delta(part: Part, rows: slice) -> Tensor:
    """Inputs through all stages, each weighted by the strength; then outputs by their scales."""
    weight = as_matrix(part.weight(rows)).double()
    out = weight
    for index, stage in enumerate(_rotations(part.tensors["boft_R"].double())):
        turned = part.strength * (stage - torch.eye(stage.shape[-1])) + torch.eye(stage.shape[-1])
        order = _order(index, stage.shape[0], stage.shape[1])
        blocks = torch.empty_like(out).index_copy_(1, order, out).view(out.shape[0], -1, 1, stage.shape[1])
        out = (blocks @ turned.mT).reshape(out.shape)[:, order]
    if "boft_s" in part.tensors:
        out = out * (1 + part.strength * (part.tensors["boft_s"].double().reshape(-1, 1)[rows] - 1))
    return part.shaped((out - weight).float())


def _rotations(numbers: Tensor) -> Tensor:
    """[stages, blocks, b, b] -> the same, (1 - Q)(1 + Q)^-1 of the skew half Q = (B - B^T) / 2."""
    skew, identity = 0.5 * (numbers - numbers.mT), torch.eye(numbers.shape[-1], dtype=numbers.dtype)
    return torch.linalg.solve(identity + skew, identity - skew, left=False)


def _order(stage: int, num_blocks: int, size: int) -> Tensor:
    """Where the inputs go before a stage: of every 2^(stage + 1) half blocks first the even, then the odd."""
    inputs = torch.arange(num_blocks * size)
    return inputs.view(-1, 2**stage, 2, size // 2).transpose(1, 2).reshape(-1) if stage else inputs


def _fits(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    numbers, scales = shapes["boft_R"], shapes.get("boft_s")
    if len(numbers) != 4 or len(shape) < 2 or not min(numbers) or numbers[-1] != numbers[-2]:
        return False
    stages, num_blocks, size = numbers[:3]
    can_mix = stages == 1 or (size % 2 == 0 and num_blocks % 2 ** (stages - 1) == 0)
    return num_blocks * size == width(shape) and can_mix and (scales is None or math.prod(scales) == shape[0])


def _block_size(shapes: Shapes) -> int | None:
    return next(iter(shapes["boft_R"][-1:]), None)


PEFT_BOFT = Format(
    name="peft-boft",
    label="BOFT of inputs",
    recognise=lambda names: "boft_R" in names,
    fits=_fits,
    delta=_delta,
    rank=_block_size,
    is_by_rows=always,
    needs_weight=True,
)
