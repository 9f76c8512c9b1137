"""The denoiser of a pass whose model changes over the steps, as it does when strengths of adapters do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from backend.diffusion.process import Denoise
from backend.families.family import Model


def step_at(sigma: float, sigmas: Sequence[float]) -> int:
    """The step, counted from 0, that an evaluation at this noise level belongs to: the last that begins at it or above.

    sigmas: descending. What a sampler looks at beyond their ends belongs to the first step or the last.
    """
    return max(0, sum(begin >= sigma for begin in sigmas[:-1]) - 1)


class StepDenoiser:
    """A `Denoise` that evaluates with the model of the step.

    Models that follow each other share the weights that are equal in them; the one that had its turn makes room first.
    A call that fails can be repeated. bound: the denoiser of a model for some of the steps, with weights in reach.
    """

    def __init__(
        self,
        sigmas: Sequence[float],
        model_at: Callable[[int], Model],
        bound: Callable[[Model, Sequence[int]], Denoise],
    ) -> None:
        self._sigmas = sigmas
        self._model_at = model_at
        self._bound = bound
        self._model: Model | None = None
        self._begin(0)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        step = step_at(sigma, self._sigmas)
        if step not in self._steps:
            self._begin(step)
        return self._denoise(x, sigma)

    def _begin(self, step: int) -> None:
        """Change to the model of a step and of those that follow with the same."""
        model, end = self._model_at(step), step + 1
        while end < len(self._sigmas) - 1 and self._model_at(end) is model:
            end += 1
        if self._model is not None and self._model is not model:
            self._model.retire()
        steps = range(step, end)
        self._denoise = self._bound(model, steps)
        self._model, self._steps = model, steps
