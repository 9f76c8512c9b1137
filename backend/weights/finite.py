"""Find weights that are not numbers, once a result was not finite: looking through all at each start takes long."""

from __future__ import annotations

import torch

from backend.weights.source import WeightSource

_PART = 2**22  # numbers looked at a time


def first_bad_tensor(source: WeightSource) -> str | None:
    """The key of the first tensor with NaN or infinity in it, or None. Reads everything. Raises BadCheckpoint.

    About two seconds for a gigabyte.
    """
    return next((key for key in source.keys() if not _is_finite(source, key)), None)


def _is_finite(source: WeightSource, key: str) -> bool:
    spec = source.spec(key)
    if not (spec.dtype.is_floating_point or spec.dtype.is_complex):
        return True
    numbers = torch.empty(spec.shape, dtype=_checked_dtype(spec.dtype))
    source.read_into(key, numbers)  # no view: the file may be cut off meanwhile
    return all(bool(part.isfinite().all()) for part in numbers.flatten().split(_PART))


def _checked_dtype(dtype: torch.dtype) -> torch.dtype:
    """PyTorch cannot tell whether numbers of eight bits are finite."""
    return torch.bfloat16 if dtype.itemsize == 1 else dtype
