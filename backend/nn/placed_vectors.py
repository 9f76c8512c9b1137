"""Embedded tokens of which some are replaced: how textual inversions come into a text encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def with_vectors(embedded: Tensor, placed: Sequence[tuple[int, Tensor]]) -> Tensor:
    """Embedded tokens [B, N, D] with vectors [M, D] that stand from a position on in place of what is there."""
    for position, vectors in placed:
        rows = vectors.to(embedded).expand(len(embedded), -1, -1)
        embedded = torch.cat([embedded[:, :position], rows, embedded[:, position + len(vectors) :]], dim=1)
    return embedded
