"""Scaled dot-product attention, and the one hook through which everything that changes attention goes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Shapes: B batch, H heads, N queries, M keys, D head width.

_QUERY_ROWS = 1024  # rows of scores that are alive at a time on a CPU: 1024 x 4096 bf16 scores stay within the L3 cache
_FEW_KEYS = 128  # below this many keys (a text context) the scores are small and the fused kernel is at its best


@dataclass(frozen=True)
class AttentionPlace:
    """Where in the network an attention happens.

    block: the checkpoint name of the transformer block, as "input_blocks.1.1.transformer_blocks.0".
    is_cross: whether the keys come from the text context.
    """

    block: str
    is_cross: bool


Attend = Callable[[Tensor, Tensor, Tensor, AttentionPlace], Tensor]


def attention(q: Tensor, k: Tensor, v: Tensor, place: AttentionPlace) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for q [B, H, N, D] and k, v [B, H, M, D].

    Without gradients and in bfloat16 on a CPU, PyTorch's fused kernel does not use the bfloat16 matrix units; plain
    matrix products do, and take about half the time.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[2] > _FEW_KEYS and not q.requires_grad:
        return _attention_by_rows(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def _attention_by_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, heads, queries, width = q.shape
    q = (q * (1 / math.sqrt(width))).reshape(batch * heads, queries, width)
    keys = k.reshape(batch * heads, -1, width).transpose(1, 2)  # [BH, D, M]
    values = v.reshape(batch * heads, -1, width)
    # Written as [B, N, H, D], so that joining the heads afterwards is a view.
    out = torch.empty(batch, queries, heads, width, dtype=q.dtype, device=q.device)
    for head in range(batch * heads):
        for start in range(0, queries, _QUERY_ROWS):
            rows = slice(start, start + _QUERY_ROWS)
            scores = torch.softmax(q[head, rows] @ keys[head], dim=-1)
            out[head // heads, rows, head % heads] = scores @ values[head]
    return out.transpose(1, 2)
