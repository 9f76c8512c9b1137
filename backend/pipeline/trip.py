"""One way from noisy latents to clean ones, through the passes of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from backend.diffusion.masking import blended, masked, softly_masked
from backend.diffusion.noise import NoiseSource
from backend.diffusion.observe import Evaluation, cancellable, observed
from backend.diffusion.process import Denoise
from backend.diffusion.process import start as start_from_noise
from backend.errors import NumericalError
from backend.families.family import Model
from backend.pipeline.beginning import Beginning
from backend.pipeline.passes import Pass, denoise_of
from backend.pipeline.plan import GenerationPlan
from backend.pipeline.preview import PreviewMaker
from backend.pipeline.report import Clock, Report

T = TypeVar("T")


class Retrying(Protocol):
    """Makes a call, and makes it again with less memory when memory runs out."""

    def __call__(self, call: Callable[[], T]) -> T: ...


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Who is told, and who is asked, while latents are on their way."""

    report: Report
    is_cancelled: Callable[[], bool]
    retry: Retrying
    clock: Clock
    previews: PreviewMaker | None
    preview_every: int


@dataclass(frozen=True, kw_only=True)
class Trip:
    """model: the one whose latents these are, and that decodes them. passes: none where nothing is to be changed.

    name: of what is made, where that is not the picture.
    """

    plan: GenerationPlan
    model: Model
    passes: Sequence[Pass]
    name: str = ""

    @property
    def num_steps(self) -> int:
        return sum(part.num_steps for part in self.passes)


def denoised(trip: Trip, beginning: Beginning | None, noise: NoiseSource, watched: Watched) -> Tensor:
    """Clean latents [B, C, h, w], as many as `noise` has images. Raises Cancelled and NumericalError."""
    if not trip.passes:
        assert beginning is not None  # only a picture to begin with leaves nothing to do
        return _as_many(beginning.latents, noise)
    first = trip.passes[0]
    sigma, process = first.sigmas[0], first.model.process
    drawn = noise()
    if beginning is None:
        latents = start_from_noise(process, drawn, sigma, first.levels.sigma_max)
    else:
        latents = beginning.noised(drawn, beginning.filled(noise), process, sigma)
    every = [sigma for part in trip.passes for sigma in part.sigmas[:-1]] + trip.passes[-1].sigmas[-1:]
    steps_before = 0
    for number, part in enumerate(trip.passes):
        watched.report.stage("loading the refiner" if number else "loading the model")
        denoise = _retried(denoise_of(part, trip.plan), watched.retry)
        if beginning is not None:
            denoise = _kept(denoise, beginning, part, drawn, every)
        watched.report.stage(f"{'refining' if number else 'sampling'} {trip.name}".strip())
        if number == 0:
            watched.clock.start_trip()
        seen = observed(
            cancellable(denoise, watched.is_cancelled),
            _watcher(watched, trip.model, steps_before),
            evaluations_per_step=trip.plan.sampler.evaluations_per_step,
        )
        latents = trip.plan.sampler.sample(seen, latents, part.sigmas, part.model.process, noise)
        _refuse_bad_numbers(latents, part)
        steps_before += part.num_steps
    watched.clock.end_trip(trip.num_steps)
    if beginning is None or beginning.mask is None or beginning.manner.is_soft:
        return latents
    return blended(beginning.latents, latents, beginning.mask)


def _kept(denoise: Denoise, beginning: Beginning, part: Pass, noise: Tensor, sigmas: Sequence[float]) -> Denoise:
    if beginning.mask is None:
        return denoise
    if beginning.manner.is_soft:
        kept = beginning.latents
        return softly_masked(denoise, part.model.process, kept, beginning.mask, noise, sigmas)
    return masked(denoise, beginning.latents, beginning.mask)


def _as_many(latents: Tensor, noise: NoiseSource) -> Tensor:
    return latents.expand(noise().shape).contiguous() if latents.shape[0] == 1 else latents


def _retried(denoise: Denoise, retry: Retrying) -> Denoise:
    return lambda x, sigma: retry(partial(denoise, x, sigma))


def _watcher(watched: Watched, model: Model, steps_before: int) -> Callable[[Evaluation], None]:
    def watch(evaluation: Evaluation) -> None:
        step = steps_before + evaluation.step
        watched.clock.evaluated(step)
        if watched.previews and step % watched.preview_every == 0:
            watched.previews.show(evaluation.x0, model.latent_preview)

    return watch


def _refuse_bad_numbers(latents: Tensor, part: Pass) -> None:
    if not bool(torch.isfinite(latents).all()):
        raise NumericalError(
            f"The {part.model.family} network's result holds values that are not numbers: the checkpoint is damaged, "
            "or the guidance scale is far too high. Choose another checkpoint, or lower the guidance scale."
        )
