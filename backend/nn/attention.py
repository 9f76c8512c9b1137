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

    In bfloat16 on a CPU, PyTorch's fused kernel does not use the matrix units where there are any; plain matrix
    products do, and take about half the time.
    """
    is_low = q.device.type == "cpu" and q.dtype == torch.bfloat16
    wants_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
    if is_low and k.shape[2] > _FEW_KEYS and not wants_gradient:
        return _attention_by_rows(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def _attention_by_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, heads, num_queries, width = q.shape
    queries, keys, values = (t.reshape(batch * heads, -1, width) for t in (q, k, v))
    # Written as [B, N, H, D], so that joining the heads afterwards is a view.
    out = torch.empty(batch, num_queries, heads, width, dtype=q.dtype, device=q.device)
    for head in range(batch * heads):
        for start in range(0, num_queries, _QUERY_ROWS):
            rows = slice(start, start + _QUERY_ROWS)
            weights = torch.softmax(_shifted_scores(queries[head, rows], keys[head]), dim=-1)
            out[head // heads, rows, head % heads] = weights @ values[head]
    return out.transpose(1, 2)


def _shifted_scores(queries: Tensor, keys: Tensor) -> Tensor:
    """q k^T / sqrt(D) [N, M], less about the largest of each row, which softmax does not notice.

    A product is summed in float32 and then rounded to three digits, which is far too coarse for scores of 20 and more.
    A first product finds the largest; in the second it is taken off inside of the sum, by one more column, so that the
    scores that count are small when they are rounded.
    """
    scale = 1 / math.sqrt(queries.shape[-1])
    shift = (queries @ keys.T).amax(dim=-1, keepdim=True) - 1 / scale  # halfway into the scores that matter
    queries = torch.cat([queries, -shift], dim=-1)
    keys = F.pad(keys, (0, 1), value=1.0)
    return torch.addmm(queries.new_zeros(1), queries, keys.T, beta=0, alpha=scale)
