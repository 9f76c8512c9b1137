"""How fast this machine's processor multiplies matrices, measured."""

from __future__ import annotations

import time

import torch
from torch import Tensor

_SIZE = 768  # a product of about 1 GFLOP: milliseconds, and yet large enough to be as fast per FLOP as a network's
_ROUNDS = 5


@torch.inference_mode()
def speedup(dtype: torch.dtype, *, over: torch.dtype) -> float:
    """How many times as fast as in `over` products of matrices are in `dtype`. Takes about a tenth of a second.

    The types take turns and the best of each counts, so that other programs' work hardly matters.
    """
    factors = {kind: torch.ones(_SIZE, _SIZE, dtype=kind) for kind in (dtype, over)}
    best = {kind: min(seconds) for kind, seconds in _measured(factors).items()}
    return best[over] / best[dtype]


def _measured(factors: dict[torch.dtype, Tensor]) -> dict[torch.dtype, list[float]]:
    seconds: dict[torch.dtype, list[float]] = {kind: [] for kind in factors}
    for factor in factors.values():
        torch.mm(factor, factor)  # the first one prepares the kernel
    for _ in range(_ROUNDS):
        for kind, factor in factors.items():
            began = time.perf_counter()
            torch.mm(factor, factor)
            seconds[kind].append(time.perf_counter() - began)
    return seconds
