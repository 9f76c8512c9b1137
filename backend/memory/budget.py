"""How many bytes of weights may be held at a time."""

from __future__ import annotations

from backend.memory.device import DeviceFacts

_RESERVE_ON_GPU = 400 * 2**20  # what the driver and other programs take while a job runs


def default_budget(device: DeviceFacts, *, low_memory: bool = False) -> int:
    """Bytes for weights: half of the free memory of a CPU machine, and nearly all of a GPU's.

    With `low_memory` a third of that, so that parts of a model make room for one another.
    """
    free = device.free_bytes()
    budget = free // 2 if device.is_host else max(free - _RESERVE_ON_GPU, free // 2)
    return budget // 3 if low_memory else budget
