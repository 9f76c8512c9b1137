"""Spherical interpolation (Shoemake 1985): along the arc between two weights, with lengths in between.

The angle comes from lengths of differences, as theta = 2 atan2(|u - v|, |u + v|) for unit vectors u and v, because the
arc cosine of a product in float32 is wrong by half at the angles that related checkpoints have.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.merging.rule import Operands, Piece, Rule, Settings, Survey
from backend.merging.rules.parameters import ALPHA, first_or_second, these
from backend.merging.rules.sums import product

_STRAIGHT = 1e-6  # radians from 0 or from pi at which there is no arc to tell
_NEARLY_OPPOSITE = 3.0  # of |u - v|**2, which is at most 4: from here on |u + v| is summed by itself
_LENGTH_ALONE = 1e-3  # of |a - b|**2: so little is left to the angle that sums in float32 lose it


@dataclass(frozen=True)
class Lengths:
    """Of two vectors: their squared lengths, and those of their difference and of their sum."""

    a: float
    b: float
    difference: float
    sum: float

    @property
    def angle(self) -> float:
        """Radians, 0 to pi; 0 when one of them is zero."""
        if self.a <= 0 or self.b <= 0:
            return 0.0
        lengths = math.sqrt(self.a) * math.sqrt(self.b)
        unequal = (math.sqrt(self.a) - math.sqrt(self.b)) ** 2
        apart = min(4.0, max(0.0, (self.difference - unequal) / lengths))
        together = max(0.0, (self.sum - unequal) / lengths) if apart > _NEARLY_OPPOSITE else 4 - apart
        return 2 * math.atan2(math.sqrt(apart), math.sqrt(together))

    def shares(self, alpha: float) -> tuple[float, float]:
        """What a and b are multiplied with."""
        angle = self.angle
        if angle < _STRAIGHT or math.pi - angle < _STRAIGHT:
            return 1 - alpha, alpha
        of_a, of_b = math.sqrt(self.a), math.sqrt(self.b)
        length = ((1 - alpha) * of_a + alpha * of_b) / math.sin(angle)
        return math.sin((1 - alpha) * angle) * length / of_a, math.sin(alpha * angle) * length / of_b


def lengths_of(operands: Operands, *, from_third: bool = False) -> Lengths:
    """Over the whole weight; of the first two models, or of what they have more than the third."""
    sums: list[Tensor] = []
    for piece in operands.pieces():
        first, second = (vector.view(-1) for vector in _vectors(piece, from_third))
        sums += (torch.dot(first, first), torch.dot(second, second))
        apart = first.sub_(second)
        sums.append(torch.dot(apart, apart))
    a, b, difference = torch.stack(sums).double().view(-1, 3).sum(dim=0).tolist() if sums else (0.0, 0.0, 0.0)
    turned = difference - (math.sqrt(a) - math.sqrt(b)) ** 2
    is_nearly_opposite = turned > _NEARLY_OPPOSITE * math.sqrt(a) * math.sqrt(b)
    if is_nearly_opposite or turned < _LENGTH_ALONE * difference:
        return _exact_lengths(operands, from_third)
    return Lengths(a, b, difference, 2 * (a + b) - difference)


def _exact_lengths(operands: Operands, from_third: bool) -> Lengths:
    """In float64, for what is nearly opposite, where how near decides about everything, and for what differs in length
    but hardly in direction. Both are rare.
    """
    sums = [0.0] * 4
    for piece in operands.pieces():
        first, second = (vector.double() for vector in _vectors(piece, from_third))
        for index, vector in enumerate((first, second, first - second, first + second)):
            sums[index] += product(vector, vector)
    return Lengths(*sums)


def _vectors(piece: Piece, from_third: bool) -> tuple[Tensor, Tensor]:
    return (piece[0] - piece[2], piece[1] - piece[2]) if from_third else (piece[0], piece[1])


def _slerp(operands: Operands, settings: Settings) -> Iterator[Tensor]:
    of_a, of_b = lengths_of(operands).shares(settings.values["alpha"])
    for a, b in operands.pieces():
        yield a.mul_(of_a).add_(b, alpha=of_b)


def _slerp_task(operands: Operands, settings: Settings) -> Iterator[Tensor]:
    of_a, of_b = lengths_of(operands, from_third=True).shares(settings.values["alpha"])
    for a, b, c in operands.pieces():
        yield a.sub_(c).mul_(of_a).add_(b.sub_(c), alpha=of_b).add_(c)


def _slerp_rows(operands: Operands, settings: Settings) -> Iterator[Tensor]:
    alpha = settings.values["alpha"]
    for a, b in operands.pieces():
        of_a, of_b = _row_shares(a.view(a.shape[0], -1), b.view(b.shape[0], -1), alpha)
        rows = (-1, *([1] * (a.ndim - 1)))
        yield a.mul_(of_a.float().view(rows)).add_(b.mul_(of_b.float().view(rows)))


def _row_shares(a: Tensor, b: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """As `Lengths.shares`, for each row of [rows, columns]; float64 [rows]."""
    of_a, of_b = a.norm(dim=1), b.norm(dim=1)
    u, v = a / of_a.clamp(min=1e-38)[:, None], b / of_b.clamp(min=1e-38)[:, None]
    angle = 2 * torch.atan2((u - v).norm(dim=1).double(), (u + v).norm(dim=1).double())
    of_a, of_b = of_a.double(), of_b.double()
    is_straight = (angle < _STRAIGHT) | (math.pi - angle < _STRAIGHT) | (of_a == 0) | (of_b == 0)
    is_straight |= torch.tensor(a.shape[1] == 1)
    length = ((1 - alpha) * of_a + alpha * of_b) / angle.sin()
    share_a = torch.sin((1 - alpha) * angle) * length / of_a
    share_b = torch.sin(alpha * angle) * length / of_b
    return torch.where(is_straight, 1 - alpha, share_a), torch.where(is_straight, alpha, share_b)


def _measured(operands: Operands, _: Settings) -> Sequence[float]:
    found = lengths_of(operands)
    return (_block_number(operands.key), found.a, found.b, found.difference, found.sum)


def _by_block(measured: Sequence[Sequence[float]]) -> Mapping[str, float]:
    sums: dict[str, float] = {}
    for block, *lengths in measured:
        for name, value in zip(("a", "b", "difference", "sum"), lengths, strict=True):
            key = f"{int(block)}.{name}"
            sums[key] = sums.get(key, 0.0) + value
    return sums


def _slerp_block(operands: Operands, settings: Settings) -> Iterator[Tensor]:
    block, found = _block_number(operands.key), settings.statistics
    total = Lengths(*(found[f"{int(block)}.{name}"] for name in ("a", "b", "difference", "sum")))
    of_a, of_b = total.shares(settings.values["alpha"])
    for a, b in operands.pieces():
        yield a.mul_(of_a).add_(b, alpha=of_b)


def _block_number(key: str) -> float:
    """Of all weights of one block: their keys begin alike, up to the first number."""
    parts = key.split(".")
    numbered = next((index for index, part in enumerate(parts) if part.isdecimal()), 1)
    return float(zlib.crc32(".".join(parts[: numbered + 1]).encode()))


_ARC = "(sin((1 − α)·θ)·A/‖A‖ + sin(α·θ)·B/‖B‖) / sin θ · ((1 − α)·‖A‖ + α·‖B‖)"

RULES = (
    Rule(
        name="slerp",
        label="SLERP",
        formula=f"{_ARC} with the angle θ between whole weights; a straight line where θ is 0 or π",
        explanation="Along the arc from A to B, which keeps contrast that a straight line loses. It differs from LERP "
        "for models that are not closely related.",
        roles=("A", "B"),
        parameters=these(ALPHA),
        merge=_slerp,
        same_as=first_or_second,
    ),
    Rule(
        name="slerp_rows",
        label="SLERP by row",
        formula=f"{_ARC} for every output row by itself",
        explanation="An arc for each output channel: finer than SLERP.",
        roles=("A", "B"),
        parameters=these(ALPHA),
        merge=_slerp_rows,
        same_as=first_or_second,
    ),
    Rule(
        name="slerp_block",
        label="SLERP by block",
        formula=f"{_ARC} with one angle θ and one pair of lengths for all weights of a block",
        explanation="One arc for each block: the proportions of its weights to one another stay.",
        roles=("A", "B"),
        parameters=these(ALPHA),
        merge=_slerp_block,
        same_as=first_or_second,
        survey=Survey(measure=_measured, combine=_by_block),
    ),
    Rule(
        name="slerp_task",
        label="SLERP of differences",
        formula="C + SLERP(A − C, B − C, α)",
        explanation="Along the arc between what A and B learnt after C, where the angle is large.",
        roles=("A", "B", "C: what A and B were trained from"),
        parameters=these(ALPHA),
        merge=_slerp_task,
        same_as=first_or_second,
    ),
)
