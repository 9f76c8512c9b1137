"""How many of the ranks of a matrix are kept: a number, or what its singular values say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from backend.errors import RequestError


class RankBy(Enum):
    """RANK: a fixed number. The others, as kohya's tools name them, keep the smallest rank with

    FROBENIUS: that share of the Frobenius norm (root of the sum of squares). CUMULATIVE: of the sum of the values.
    RATIO: every value above the largest divided by the number.
    """

    RANK = "rank"
    FROBENIUS = "sv_fro"
    RATIO = "sv_ratio"
    CUMULATIVE = "sv_cumulative"


@dataclass(frozen=True, kw_only=True)
class RankChoice:
    """value: the rank; a share in 0 to 1; or, for RATIO, a number from 1 on. largest: more are never kept.

    Raises RequestError for a value that means nothing.
    """

    by: RankBy
    value: float
    largest: int | None = None

    def __post_init__(self) -> None:
        is_share = self.by in (RankBy.FROBENIUS, RankBy.CUMULATIVE)
        if is_share and not 0 < self.value <= 1:
            raise RequestError("rank", f"{self.by.value} takes a share above 0 and up to 1, not {self.value:g}")
        if not is_share and (not self.value >= 1 or self.value == float("inf")):
            raise RequestError("rank", f"{self.by.value} takes a number from 1 on, not {self.value:g}")
        if self.by is RankBy.RANK and self.value != int(self.value):
            raise RequestError("rank", f"must be a whole number, not {self.value:g}")
        if self.largest is not None and self.largest < 1:
            raise RequestError("largest rank", f"must be 1 or more, not {self.largest}")

    @property
    def limit(self) -> int | None:
        """A rank that is never passed, whatever the singular values are."""
        fixed = int(self.value) if self.by is RankBy.RANK else None
        return min((limit for limit in (fixed, self.largest) if limit is not None), default=None)

    def rank(self, singular_values: Tensor) -> int:
        """Of a matrix with these singular values, the largest first [k]: at least 1, at most k."""
        values = singular_values.double()
        match self.by:
            case RankBy.RANK:
                found = int(self.value)
            case RankBy.FROBENIUS:
                found = _first_reaching(values.square(), self.value**2)
            case RankBy.CUMULATIVE:
                found = _first_reaching(values, self.value)
            case RankBy.RATIO:
                found = int((values > values[0] / self.value).sum())
        return max(1, min(found, self.limit or found, len(values)))


def _first_reaching(parts: Tensor, share: float) -> int:
    """How many of the parts make up that share of all of them."""
    sums = parts.cumsum(0)
    reached = sums >= share * sums[-1] * (1 - 1e-12)  # all of them also where the last sums round differently
    return int(torch.nonzero(reached)[0]) + 1
