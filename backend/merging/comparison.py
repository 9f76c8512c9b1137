"""How much two models differ: by weight, and by block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from backend.errors import Cancelled
from backend.merging.block_layout import BlockLayout
from backend.merging.combined import Combined
from backend.merging.made_model import MadeModel
from backend.merging.operands import Aligned, Buffers
from backend.merging.rule import Operands
from backend.merging.rules.slerp import Lengths, lengths_of

WHOLE = ""  # the name under which all blocks together are told
_THREADS = 2


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Of one weight, or of several as one vector, in two models.

    angle: between them in radians, which tells how far SLERP is from LERP. distance: |B - A| / |A|, 0 where A is zero.
    """

    angle: float
    distance: float


def compare(operands: Operands) -> Comparison:
    """One weight of the first two models."""
    return _of(lengths_of(operands))


def compare_blocks(
    made: MadeModel, layout: BlockLayout, *, is_cancelled: Callable[[], bool] = lambda: False
) -> Mapping[str, Comparison]:
    """The first two models of a merge, by block and, as WHOLE, altogether. Everything is read.

    made: of a recipe that is one merge. Weights that are not merged count nowhere. Raises BadCheckpoint and Cancelled.
    """
    merged = [weight for key in made.source.keys() if isinstance(weight := made.source.weight(key), Combined)]
    buffers = Buffers()  # each thread has its own

    def lengths(weight: Combined) -> Lengths:
        if is_cancelled():
            raise Cancelled()
        return lengths_of(Aligned(weight.key, weight.operands[:2], buffers))

    sums: dict[str, Lengths] = defaultdict(lambda: Lengths(0.0, 0.0, 0.0, 0.0))
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="compare") as threads:
        for weight, found in zip(merged, threads.map(lengths, merged), strict=True):
            for name in {layout.place_of(weight.key).block, WHOLE}:
                sums[name] = _sum(sums[name], found)
    return {name: _of(found) for name, found in sums.items()}


def _sum(first: Lengths, second: Lengths) -> Lengths:
    return Lengths(
        first.a + second.a,
        first.b + second.b,
        first.difference + second.difference,
        first.sum + second.sum,
    )


def _of(lengths: Lengths) -> Comparison:
    distance = (lengths.difference / lengths.a) ** 0.5 if lengths.a > 0 else 0.0
    return Comparison(angle=lengths.angle, distance=distance)
