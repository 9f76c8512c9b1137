"""Loopback: img2img over and over, each round on the result of the one before."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import Enum

from backend.errors import RequestError
from backend.field_checks import check_int, check_number, checked_kind
from backend.request import MAX_SEED, GenerationRequest

MAX_ROUNDS = 256


class StrengthPath(str, Enum):
    """How the denoising strength goes from the first round to the last."""

    LINEAR = "linear"
    AGGRESSIVE = "aggressive"  # fast at first
    LAZY = "lazy"  # slow at first


@dataclass(frozen=True, kw_only=True)
class Loopback:
    """final_strength: denoising strength of the last round; the first has the request's. None for the same in all."""

    rounds: int = 4
    final_strength: float | None = None
    curve: StrengthPath = StrengthPath.LINEAR

    def __post_init__(self) -> None:
        check_int("rounds", self.rounds, 1, MAX_ROUNDS, optional=False)
        check_number("final_strength", self.final_strength, 0, 1)
        object.__setattr__(self, "curve", checked_kind("curve", StrengthPath, self.curve))

    def strength(self, first: float, number: int) -> float:
        """Denoising strength of a round, counted from 0; `first` is that of round 0."""
        if self.final_strength is None or self.rounds == 1:
            return first
        progress = number / (self.rounds - 1)
        match self.curve:
            case StrengthPath.LINEAR:
                share = progress
            case StrengthPath.AGGRESSIVE:
                share = math.sin(progress * math.pi / 2)
            case StrengthPath.LAZY:
                share = 1 - math.cos(progress * math.pi / 2)
        return min(1.0, max(0.0, first + (self.final_strength - first) * share))


def check_round_trip(request: GenerationRequest) -> None:
    """Raises RequestError for a request whose results cannot be its next picture."""
    if request.init is None:
        raise RequestError("init", "is missing: loopback begins with a picture. Choose one")
    if request.init.borders is not None:
        raise RequestError("init.borders", "would grow in every round; make the picture larger first, then loop")


def round_request(request: GenerationRequest, loopback: Loopback, number: int, picture: str) -> GenerationRequest:
    """The request of one round, counted from 0.

    picture: hash of what the round before made; the first round begins with the request's own. Each round has the next
    seed. Raises RequestError.
    """
    check_round_trip(request)
    assert request.init is not None
    strength = loopback.strength(request.init.denoising_strength, number)
    init = dataclasses.replace(request.init, picture=picture, denoising_strength=strength)
    return dataclasses.replace(request, init=init, seed=min(MAX_SEED, request.seed + number))
