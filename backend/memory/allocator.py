"""How the C library hands out memory, where that can be said."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h
_LARGE = 8 * 2**20


def return_large_pieces() -> None:
    """Have memory of 8 MiB and more go back to the system as soon as it is free, for the rest of the program.

    glibc keeps it otherwise, and where small and long-lived pieces lie between, up to a gigabyte cannot be used again
    for the weights and activations of a large network. It costs about 15 % of the time of a step, so it is for programs
    that must stay below a limit.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # not every C library has it
            ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
