"""Whether copies from page-locked memory to a device pay on this machine. On some systems they are slower."""

from __future__ import annotations

import logging
import time

import torch
from torch import Tensor

_log = logging.getLogger(__name__)
_BYTES = 64 * 2**20
_WORTHWHILE = 1.3
_ROUNDS = 3


def pinning_pays(device: torch.device) -> bool:
    """Measure it, in about a tenth of a second. False where memory cannot be page-locked at all."""
    if device.type not in ("cuda", "xpu"):
        return False
    try:
        out = torch.empty(_BYTES, dtype=torch.uint8, device=device)
        plain, pinned = (torch.zeros(_BYTES, dtype=torch.uint8, pin_memory=pins) for pins in (False, True))
    except RuntimeError as error:
        _log.info("No page-locked memory: %s", error)
        return False
    gain = _seconds(plain, out) / _seconds(pinned, out)
    _log.info("Copies from page-locked memory are %.1f times as fast", gain)
    return gain >= _WORTHWHILE


def _seconds(source: Tensor, out: Tensor) -> float:
    """The best of a few copies, after one that does not count."""
    rounds: list[float] = []
    for _ in range(_ROUNDS + 1):
        torch.accelerator.synchronize(out.device)
        began = time.perf_counter()
        out.copy_(source, non_blocking=True)
        torch.accelerator.synchronize(out.device)
        rounds.append(time.perf_counter() - began)
    return min(rounds[1:])
