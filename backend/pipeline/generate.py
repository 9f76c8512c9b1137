"""One job from its plan to its pictures: the first pass, and what follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from backend.diffusion.guidance import Conditioning
from backend.families.family import Model, Prompt
from backend.memory.residency import Residency
from backend.memory.retrying import retrying
from backend.pipeline.course import Course, Stretch, course_of
from backend.pipeline.details import detailed
from backend.pipeline.from_picture import Made, PictureMaker, stored_source
from backend.pipeline.hires import second_pass
from backend.pipeline.means import Means, OpenedModels
from backend.pipeline.passes import EncodePrompt, ModelOfStep
from backend.pipeline.pixels import Pixels
from backend.pipeline.plan import GenerationPlan, seed_of
from backend.pipeline.preview import PreviewMaker
from backend.pipeline.report import Clock, Report
from backend.pipeline.studio import Studio
from backend.pipeline.trip import Watched, denoised

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class GeneratedImage:
    """index: of the image in its job. pixels: [H, W, 3]. before_hires: the picture as its first pass left it."""

    index: int
    seed: int
    pixels: Pixels
    before_hires: Pixels | None = None


def generate(
    plan: GenerationPlan,
    model: Model,
    report: Report,
    is_cancelled: Callable[[], bool],
    *,
    models: ModelOfStep | None = None,
    refiner: Model | None = None,
    refiner_models: ModelOfStep | None = None,
    encode_prompt: EncodePrompt = lambda model, prompt: model.encode_prompt(prompt),
    first_image: int = 0,
    preview_every: int = 1,
    device: torch.device | str = "cpu",
    residency: Residency | None = None,
    means: Means | None = None,
) -> Iterator[GeneratedImage]:
    """The images of `plan` from `first_image` on, batch by batch.

    models: which are `model` with other strengths of adapters, where these change over the steps; `model` reads the
    prompts and decodes. They are asked once for each step before the refiner.
    refiner: the model of `plan.refiner`, which takes the noisy latents over as they are; of the second pass, if there
    is one. refiner_models: as `models`, for the refiner.
    encode_prompt: the model's own way, or a cache in front of it.
    first_image: how many images were made before; a job that was interrupted goes on there.
    preview_every: evaluations of the model between live previews; 0 for none.
    residency: what holds the models' weights; with it, what runs out of memory is made again with less.
    means: for a plan that begins with a picture or goes on after its first pass.
    Raises Cancelled between two evaluations of the model, NumericalError, and what loading weights raises.
    """
    report.stage("encoding the prompt")
    retry = _Retry(residency, report)

    def encode(model: Model, prompt: Prompt) -> Conditioning:
        return retry(lambda: encode_prompt(model, prompt))

    first = OpenedModels(
        model=model,
        models=models,
        refiner=None if plan.hires else refiner,
        refiner_models=refiner_models,
    )
    course = course_of(plan, first, encode, means)
    if first_image == 0:
        _tell_of_lost_text(course, report)
    previews = PreviewMaker(model.latent_preview, report.preview) if preview_every else None
    watched = Watched(
        report=report,
        is_cancelled=is_cancelled,
        retry=retry,
        clock=Clock(plan, course.num_steps(plan.batch_size), first_image, report),
        previews=previews,
        preview_every=preview_every,
    )
    studio = Studio(watched=watched, device=device, means=means)
    try:
        make = _first_pass(plan, course.first, studio)
        for start in range(first_image, plan.num_images, plan.batch_size):
            seeds = [seed_of(plan, index) for index in range(start, min(start + plan.batch_size, plan.num_images))]
            watched.clock.start_batch()
            made, before = make(seeds), None
            if plan.hires is not None and course.second is not None:
                before = list(made.pictures)
                is_same = course.second.trip.model.latent_kind == model.latent_kind
                made = replace(made, pictures=before, latents=made.latents if is_same else None)
                made = second_pass(plan.hires, course.second, made, seeds, studio)
            for offset, pixels in enumerate(made.pictures):
                yield GeneratedImage(
                    index=start + offset,
                    seed=seeds[offset],
                    pixels=_with_details(pixels, seeds[offset], plan, course, studio),
                    before_hires=before[offset] if before else None,
                )
            watched.clock.end_batch()
    finally:
        if previews:
            previews.close()


def _first_pass(plan: GenerationPlan, stretch: Stretch, studio: Studio) -> Callable[[Sequence[int]], Made]:
    """What makes the pictures of a batch, by their seeds, before anything follows."""
    trip = stretch.trip
    if plan.init is None:

        def from_noise(seeds: Sequence[int]) -> Made:
            latents = denoised(trip, None, studio.noise_for(plan, trip.model, seeds), studio.watched)
            return Made(pictures=studio.decode(trip.model, latents), latents=latents)

        return from_noise
    source = stored_source(plan.init, (plan.width, plan.height), studio)
    if source.is_kept:
        return lambda seeds: Made(pictures=[source.unchanged() for _ in seeds], latents=None)
    maker = PictureMaker(stretch, source, (plan.width, plan.height), studio)
    return lambda seeds: maker.make(studio.noise_for(plan, trip.model, seeds))


def _with_details(pixels: Pixels, seed: int, plan: GenerationPlan, course: Course, studio: Studio) -> Pixels:
    for details, stretch in zip(plan.details, course.details, strict=True):
        pixels = detailed(details, stretch, pixels, seed, studio)
    return pixels


class _Retry:
    """Makes calls that change nothing again, with less memory, when memory runs out; the user is told once."""

    def __init__(self, residency: Residency | None, report: Report) -> None:
        self._residency = residency
        self._report = report
        self._was_told = False

    def __call__(self, call: Callable[[], T]) -> T:
        if self._residency is None:
            return call()
        return retrying(call, self._residency, on_retry=self._tell)

    def _tell(self) -> None:
        if not self._was_told:
            self._was_told = True
            self._report.notice("The memory ran out. Less of the model stays in it now, and the job goes on slower.")


def _tell_of_lost_text(course: Course, report: Report) -> None:
    for part in course.passes():
        sides = ("prompt", part.cond), ("negative prompt", part.uncond)
        for name, conditioning in sides:
            if conditioning is not None and conditioning.lost_tokens:
                report.notice(
                    f"The {name} is {conditioning.lost_tokens} tokens too long for the T5 text encoder of "
                    f"{part.model.family}, which has not read its end."
                )
