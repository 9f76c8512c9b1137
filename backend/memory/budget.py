"""How many bytes of weights, and of what networks compute with, may be held at a time."""

from __future__ import annotations

import sys

from backend.memory.allocator import return_large_pieces
from backend.memory.device import DeviceFacts, total_host_bytes
from backend.memory.pinning import pinning_pays
from backend.memory.process_memory import resident_bytes
from backend.memory.residency import Residency
from backend.memory.transport import transport_to

# What the driver and other programs take while a job runs. Windows moves what does not fit to the host's memory, at a
# tenth of the speed and without an error.
_RESERVE_ON_GPU = (600 if sys.platform == "win32" else 400) * 2**20
_CACHE_SHARE, _PINNED_SHARE = 1 / 2, 1 / 4  # of the machine's memory, for layers that are ready to be copied
# Of a cap on the program, what kernels take for themselves and allocators keep between tensors; what the program loads
# of itself when it first computes is in it as well.
_SLACK = 480 * 2**20
_LEAST = 256 * 2**20  # with less than that hardly any network runs at all
_PROGRAM = 500 * 2**20  # about what the program takes without weights, where the system does not tell


def default_budget(device: DeviceFacts, *, low_memory: bool = False, held: int = 0) -> int:
    """Bytes for weights: half of the free memory of a CPU machine, and nearly all of a GPU's.

    With `low_memory` a third of that, so that parts of a model make room for one another. held: bytes of ours that are
    not free, but that we may use again.
    """
    free = device.free_bytes() + held
    budget = free // 2 if device.is_host else max(free - _RESERVE_ON_GPU, free // 2)
    return budget // 3 if low_memory else budget


class ProgramCap:
    """The budget under which the whole program takes no more than `cap` bytes of the machine."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._program = _program_bytes()

    def budget(self, held: int) -> int:
        """held: bytes of weights that are in memory; without any, it is seen what the program takes beside them."""
        if not held:
            self._program = _program_bytes()
        return max(self._cap - self._program - _SLACK, min(self._cap // 2, _LEAST))


def _program_bytes() -> int:
    return resident_bytes() or _PROGRAM


def residency_for(device: DeviceFacts, *, cap: int | None = None, low_memory: bool = False) -> Residency:
    """The residency of a machine, whose budget is read again for every job.

    cap: what the user allows; on a CPU for the whole program, on a GPU of its memory.
    """
    if device.is_host:
        if cap is not None:
            return_large_pieces()
            limit = ProgramCap(cap)
            return Residency(limit.budget(0), reread=limit.budget)
        return Residency(
            default_budget(device, low_memory=low_memory),
            reread=lambda held: default_budget(device, low_memory=low_memory, held=held),
        )

    def reread(held: int) -> int:
        free = default_budget(device, low_memory=low_memory, held=held)
        return free if cap is None else min(cap, free)

    pins = pinning_pays(device.torch_device)
    return Residency(
        reread(0),
        reread=reread,
        transport=transport_to(device.torch_device, pins=pins),
        host_budget=int(total_host_bytes() * (_PINNED_SHARE if pins else _CACHE_SHARE)),
    )
