"""One job from its plan to its pictures: conditioning, noise, sampling, decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backend.diffusion.noise import BatchNoise
from backend.diffusion.observe import Evaluation, cancellable, observed
from backend.diffusion.process import Denoise
from backend.diffusion.process import start as start_from_noise
from backend.errors import Cancelled, NumericalError
from backend.families.family import Model
from backend.memory.residency import Residency
from backend.memory.retrying import retrying
from backend.pipeline.passes import EncodePrompt, ModelOfStep, Pass, denoise_of, passes_of
from backend.pipeline.plan import GenerationPlan, seed_of
from backend.pipeline.preview import PreviewMaker
from backend.pipeline.report import Clock, Report

Pixels = npt.NDArray[np.uint8]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class GeneratedImage:
    """index: of the image in its job. pixels: [H, W, 3]."""

    index: int
    seed: int
    pixels: Pixels


def generate(
    plan: GenerationPlan,
    model: Model,
    report: Report,
    is_cancelled: Callable[[], bool],
    *,
    models: ModelOfStep | None = None,
    refiner: Model | None = None,
    encode_prompt: EncodePrompt = lambda model, prompt: model.encode_prompt(prompt),
    first_image: int = 0,
    preview_every: int = 1,
    device: torch.device | str = "cpu",
    residency: Residency | None = None,
) -> Iterator[GeneratedImage]:
    """The images of `plan` from `first_image` on, batch by batch.

    models: which are `model` with other strengths of adapters, where these change over the steps; `model` reads the
    prompts and decodes. They are asked once for each step before the refiner.
    refiner: the model of `plan.refiner`, which takes the noisy latents over as they are.
    encode_prompt: the model's own way, or a cache in front of it.
    first_image: how many images were made before; a job that was interrupted goes on there.
    preview_every: evaluations of the model between live previews; 0 for none.
    residency: what holds the models' weights; with it, what runs out of memory is made again with less.
    Raises Cancelled between two evaluations of the model, NumericalError, and what loading weights raises.
    """
    report.stage("encoding the prompt")
    retry = _Retry(residency, report)
    passes = passes_of(plan, model, refiner, lambda model, prompt: retry(lambda: encode_prompt(model, prompt)), models)
    if first_image == 0:
        _tell_of_lost_text(passes, report)
    clock = Clock(plan, sum(part.num_steps for part in passes), first_image, report)
    previews = PreviewMaker(model.latent_preview, report.preview) if preview_every else None
    try:
        for start in range(first_image, plan.num_images, plan.batch_size):
            seeds = [seed_of(plan, index) for index in range(start, min(start + plan.batch_size, plan.num_images))]
            noise = BatchNoise(seeds, model.latent_shape(plan.width, plan.height), plan.noise_source, device=device)
            first = passes[0]
            latents = start_from_noise(first.model.process, noise(), first.sigmas[0], first.levels.sigma_max)
            steps_before = 0
            for number, part in enumerate(passes):
                report.stage("loading the refiner" if number else "loading the model")
                denoise = cancellable(_retried(denoise_of(part, plan), retry), is_cancelled)
                report.stage("refining" if number else "sampling")
                if number == 0:
                    clock.start_batch()
                watch = _watcher(clock, previews, preview_every, steps_before)
                watched = observed(denoise, watch, evaluations_per_step=plan.sampler.evaluations_per_step)
                latents = plan.sampler.sample(watched, latents, part.sigmas, part.model.process, noise)
                _refuse_bad_numbers(latents, part)
                steps_before += part.num_steps
            clock.end_batch()
            report.stage("decoding")
            for offset, pixels in enumerate(_decoded(model, latents, is_cancelled, retry)):
                yield GeneratedImage(index=start + offset, seed=seeds[offset], pixels=pixels)
    finally:
        if previews:
            previews.close()


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


def _retried(denoise: Denoise, retry: _Retry) -> Denoise:
    return lambda x, sigma: retry(partial(denoise, x, sigma))


def _tell_of_lost_text(passes: Sequence[Pass], report: Report) -> None:
    for part in passes:
        sides = ("prompt", part.cond), ("negative prompt", part.uncond)
        for name, conditioning in sides:
            if conditioning is not None and conditioning.lost_tokens:
                report.notice(
                    f"The {name} is {conditioning.lost_tokens} tokens too long for the T5 text encoder of "
                    f"{part.model.family}, which has not read its end."
                )


def _watcher(
    clock: Clock, previews: PreviewMaker | None, preview_every: int, steps_before: int
) -> Callable[[Evaluation], None]:
    def watch(evaluation: Evaluation) -> None:
        step = steps_before + evaluation.step
        clock.evaluated(step)
        if previews and step % preview_every == 0:
            previews.show(evaluation.x0)

    return watch


def _refuse_bad_numbers(latents: Tensor, part: Pass) -> None:
    if not bool(latents.isfinite().all()):
        raise NumericalError(
            f"The {part.model.family} network's result holds values that are not numbers: the checkpoint is damaged, "
            "or the guidance scale is far too high. Choose another checkpoint, or lower the guidance scale."
        )


def _decoded(model: Model, latents: Tensor, is_cancelled: Callable[[], bool], retry: _Retry) -> Iterator[Pixels]:
    """Pictures [H, W, 3] one after the other; 8 bits by truncation, as A1111 has it."""
    for latent in latents.split(1):
        if is_cancelled():
            raise Cancelled
        image = retry(partial(model.decode, latent))[0].float().cpu().clamp(-1, 1)  # [3, H, W]
        yield ((image + 1) * 127.5).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
