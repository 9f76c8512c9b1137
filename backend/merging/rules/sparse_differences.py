"""Rules that keep a part of what each model learnt after a common base, so that they get less into each other's way.

TIES: Yadav et al. 2023, arXiv 2306.01708. DARE: Yu et al. 2023, arXiv 2311.03099. DELLA: Deep et al. 2024,
arXiv 2406.11617. Breadcrumbs: Davari and Belilovsky 2023, arXiv 2312.06795.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from backend.merging.rule import MergeFunction, Operands, Parameter, Rule, Settings
from backend.merging.rules.magnitudes import Largest, thresholds
from backend.merging.rules.parameters import DENSITY, RESCALE, STRENGTH, first_without_strength, these
from backend.merging.rules.sums import differences

Sparse = Callable[[Sequence[Tensor]], list[Tensor]]  # differences of one piece, in order -> what is kept of them
Joined = Callable[[Sequence[Tensor]], Tensor]


def mean(kept: Sequence[Tensor]) -> Tensor:
    return sum(kept[1:], start=kept[0]) / len(kept)


def elected_mean(kept: Sequence[Tensor]) -> Tensor:
    """Of those whose sign is that of the sum; a sum of 0 counts as positive."""
    elected = torch.where(sum(kept[1:], start=kept[0]) >= 0, 1.0, -1.0)
    total, count = torch.zeros_like(elected), torch.zeros_like(elected)
    for part in kept:
        agreeing = (part * elected).clamp_(min=0)
        total.add_(agreeing)
        count.add_(agreeing > 0)
    return total.mul_(elected).div_(count.clamp_(min=1))


def _merging(prepare: Callable[[Operands, Settings], Sparse], join: Joined) -> MergeFunction:
    def merge(operands: Operands, settings: Settings) -> Iterator[Tensor]:
        sparse = prepare(operands, settings)
        # A weight of one dimension is one row, and what looks at rows needs it whole.
        for piece in operands.pieces() if len(operands.shape) > 1 else (operands.whole(),):
            found = join(sparse(differences(piece)))
            yield piece[0].add_(found, alpha=settings.values["alpha"])

    return merge


def _largest(operands: Operands, settings: Settings) -> Sparse:
    """The largest of each difference."""
    count = int(settings.values["density"] * math.prod(operands.shape))
    limits = thresholds(lambda: map(differences, operands.pieces()), [count])
    kept = [Largest(limit) for (limit,) in limits]
    return lambda found: [part * largest.mask(part) for part, largest in zip(found, kept, strict=True)]


def _between(operands: Operands, settings: Settings) -> Sparse:
    """The largest of each difference but for the very largest."""
    size = math.prod(operands.shape)
    outliers = int(settings.values["gamma"] * size)
    count = min(size, outliers + int(settings.values["density"] * size))
    found = thresholds(lambda: map(differences, operands.pieces()), [outliers, count])
    limits = [(Largest(upper), Largest(lower)) for upper, lower in found]

    def sparse(found: Sequence[Tensor]) -> list[Tensor]:
        return [
            part * (lower.mask(part) & ~upper.mask(part)) for part, (upper, lower) in zip(found, limits, strict=True)
        ]

    return sparse


def _random(operands: Operands, settings: Settings) -> Sparse:
    """Any of each difference, drawn with the density as their chance."""
    density = settings.values["density"]
    scale = density ** -settings.values["rescale"]
    draws = _Draws(operands.count - 1, settings.seed)

    def sparse(found: Sequence[Tensor]) -> list[Tensor]:
        return [part * ((draw < density) * scale) for part, draw in zip(found, draws.like(found), strict=True)]

    return sparse


def _random_by_rank(operands: Operands, settings: Settings) -> Sparse:
    """As `_random`, with a greater chance for the larger ones of each row."""
    draws = _Draws(operands.count - 1, settings.seed)

    def sparse(found: Sequence[Tensor]) -> list[Tensor]:
        kept: list[Tensor] = []
        for part, draw in zip(found, draws.like(found), strict=True):
            chance = keep_chances(part, settings.values["density"], settings.values["epsilon"])
            kept.append(part * ((draw < chance) * chance ** -settings.values["rescale"]))
        return kept

    return sparse


def keep_chances(difference: Tensor, density: float, epsilon: float) -> Tensor:
    """DELLA's: density - epsilon for the smallest of each row to density + epsilon for the largest."""
    rows = difference.abs().view(difference.shape[0], -1) if difference.ndim > 1 else difference.abs().view(1, -1)
    places = torch.arange(rows.shape[1], dtype=torch.float32).expand(rows.shape)
    ranks = torch.empty_like(rows).scatter_(1, rows.argsort(dim=1, stable=True), places)
    reach = max(0.0, min(epsilon, density - 1e-3, 1 - density))
    chances = density - reach + 2 * reach * ranks / max(1, rows.shape[1] - 1)
    return chances.clamp(1e-3, 1).view(difference.shape)


class _Draws:
    """Even numbers from 0 to 1 for several differences: each has a generator, read in the order of its numbers."""

    def __init__(self, count: int, seed: int) -> None:
        self._generators = [torch.Generator().manual_seed((seed + index) % 2**63) for index in range(count)]

    def like(self, found: Sequence[Tensor]) -> list[Tensor]:
        return [
            torch.rand(part.numel(), generator=generator).view(part.shape)
            for part, generator in zip(found, self._generators, strict=True)
        ]


_ROLES = ("A: what the others were trained from", "B")
_MOST = 16

_EPSILON = Parameter(
    name="epsilon", label="Epsilon", default=0.1, maximum=0.5, explanation="How much the chance follows the size."
)
_GAMMA = Parameter(
    name="gamma", label="Outliers", default=0.01, maximum=0.5, explanation="The share of the largest that is dropped."
)


def _rule(
    name: str, label: str, formula: str, explanation: str, merge: MergeFunction, *parameters: Parameter,
    is_random: bool = False, roles: tuple[str, ...] = _ROLES,
) -> Rule:  # fmt: skip
    return Rule(
        name=name,
        label=label,
        formula=formula,
        explanation=explanation,
        roles=roles,
        extra_models=_MOST - len(roles),
        parameters=these(STRENGTH, *parameters),
        merge=merge,
        same_as=first_without_strength,
        is_random=is_random,
    )


RULES = (
    _rule(
        "ties", "TIES",
        "A + α·mean of the dᵢ that agree with sign(Σ dᵢ), dᵢ = the largest share of Mᵢ − A by size",
        "Joins several fine-tunes: small changes are dropped, and where they disagree the stronger side wins.",
        _merging(_largest, elected_mean), DENSITY, roles=(*_ROLES, "C"),
    ),
    _rule(
        "dare", "DARE",
        "A + α·mean(mᵢ·(Mᵢ − A) / density^rescale), mᵢ drawn with the density as chance",
        "Drops changes at random and strengthens the rest.",
        _merging(_random, mean), DENSITY, RESCALE, is_random=True,
    ),
    _rule(
        "dare_ties", "DARE with TIES",
        "A + α·mean of the dᵢ that agree with sign(Σ dᵢ), dᵢ = mᵢ·(Mᵢ − A) / density^rescale",
        "DARE, and where fine-tunes disagree the stronger side wins.",
        _merging(_random, elected_mean), DENSITY, RESCALE, is_random=True, roles=(*_ROLES, "C"),
    ),
    _rule(
        "della", "DELLA",
        "as DARE with TIES, with a chance from density − ε for the smallest of a row to density + ε for the largest",
        "DARE that rather keeps large changes.",
        _merging(_random_by_rank, elected_mean), DENSITY, _EPSILON, RESCALE, is_random=True,
    ),
    _rule(
        "breadcrumbs", "Model breadcrumbs",
        "A + α·mean(dᵢ), dᵢ = Mᵢ − A without the share γ of the largest, of the rest the largest up to the density",
        "Drops both the smallest changes and the outliers.",
        _merging(_between, mean), DENSITY, _GAMMA,
    ),
)  # fmt: skip
