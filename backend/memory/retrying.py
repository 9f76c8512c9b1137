"""Try again with less memory what ran out of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TypeVar

from backend.errors import OutOfMemory
from backend.memory.byte_sizes import as_text
from backend.memory.out_of_memory import is_out_of_memory
from backend.memory.residency import Residency

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
# "Tried to allocate 1.50 GiB" (GPUs), "you tried to allocate 4096 bytes" (CPU)
_WANTED = re.compile(r"tried to allocate ([\d.]+) (bytes|[KMGT]iB)", re.IGNORECASE)
_UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def retrying(
    call: Callable[[], _Result], residency: Residency, *, attempts: int = 5, on_retry: Callable[[], None] | None = None
) -> _Result:
    """The result of a call that changes nothing but what it returns, such as one step of a network.

    When memory runs out the residency is shrunk, and the call made anew from its arguments, up to `attempts` times in
    all; on_retry is called before each further attempt. Raises OutOfMemory, which says how much was missing, when that
    does not help.
    """
    for _attempt in range(attempts - 1):
        failure = _failure_of(call)
        if not isinstance(failure, _Failure):
            return failure[0]
        _log.warning("Memory ran out (%s); trying again with less", failure.text)
        if on_retry is not None:
            on_retry()
        residency.shrink()  # here no exception is alive, whose frames would keep tensors
    failure = _failure_of(call)
    if not isinstance(failure, _Failure):
        return failure[0]
    wanted = wanted_bytes(failure.text)
    missing = "" if wanted is None else f" {as_text(wanted)} more were needed for one of its tensors."
    raise OutOfMemory(
        f"There is not enough memory for this job, even with {as_text(residency.budget)} for its weights.{missing} "
        "Make the picture or the batch smaller, close other programs, or start with --lowvram."
    )


def wanted_bytes(text: str) -> int | None:
    """How much could not be had, if the text of an error tells."""
    found = _WANTED.search(text)
    return None if found is None else int(float(found[1]) * _UNITS[found[2].lower()])


class _Failure:
    def __init__(self, text: str) -> None:
        self.text = text


def _failure_of(call: Callable[[], _Result]) -> tuple[_Result] | _Failure:
    try:
        return (call(),)
    except OutOfMemory as error:
        return _Failure(str(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _Failure(str(error))
