"""Watching and stopping a sampler from outside: wrappers Denoise -> Denoise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from backend.diffusion.process import Denoise
from backend.errors import Cancelled


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One finished call of the model. step: 0-based; x0: what the picture would be if it ended here."""

    step: int
    sigma: float
    x0: Tensor


def observed(
    denoise: Denoise, on_evaluation: Callable[[Evaluation], None], *, evaluations_per_step: int = 1
) -> Denoise:
    """Report every call. The observer must not change x0; an error that it raises ends the sampling.

    evaluations_per_step: the sampler's; each step is reported that many times, the last of a second-order one once.
    """
    evaluations = 0

    def watching(x: Tensor, sigma: float) -> Tensor:
        nonlocal evaluations
        x0 = denoise(x, sigma)
        on_evaluation(Evaluation(step=evaluations // evaluations_per_step, sigma=sigma, x0=x0))
        evaluations += 1
        return x0

    return watching


def cancellable(denoise: Denoise, is_cancelled: Callable[[], bool]) -> Denoise:
    """Raise Cancelled instead of calling the model once `is_cancelled` says so."""

    def stopping(x: Tensor, sigma: float) -> Tensor:
        if is_cancelled():
            raise Cancelled
        return denoise(x, sigma)

    return stopping
