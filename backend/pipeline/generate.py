"""One job from its plan to its pictures: conditioning, noise, sampling, decoding."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backend.diffusion.guidance import Conditioning, classifier_free
from backend.diffusion.noise import BatchNoise
from backend.diffusion.observe import Evaluation, cancellable, observed
from backend.diffusion.prediction import denoiser
from backend.diffusion.process import VarianceExploding
from backend.diffusion.schedules import sigmas_for
from backend.errors import Cancelled, NumericalError
from backend.families.family import Model
from backend.pipeline.plan import GenerationPlan, seed_of
from backend.pipeline.preview import PreviewMaker

Pixels = npt.NDArray[np.uint8]


class Report(Protocol):
    """What a caller is told while a job runs, from the thread that runs it unless said otherwise."""

    def stage(self, name: str) -> None: ...

    def progress(self, step: int, steps: int, seconds_per_step: float, eta_seconds: float) -> None:
        """`step` of `steps`, counted over all batches that are still to be made and those that were made."""
        ...

    def preview(self, jpeg: bytes) -> None:
        """From a thread of its own."""
        ...


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
    first_image: int = 0,
    preview_every: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[GeneratedImage]:
    """The images of `plan` from `first_image` on, batch by batch.

    first_image: how many images were made before; a job that was interrupted goes on there.
    preview_every: evaluations of the model between live previews; 0 for none.
    Raises Cancelled between two evaluations of the model, NumericalError, and what loading weights raises.
    """
    report.stage("encoding the prompt")
    cond, uncond = _conditionings(plan, model)
    report.stage("loading the model")
    network = classifier_free(model.network(), cond, uncond, plan.guidance_scale, exact_batches=plan.exact_batches)
    denoise = cancellable(denoiser(network, model.prediction, model.levels), is_cancelled)
    sigmas = sigmas_for(
        plan.schedule,
        plan.steps,
        model.levels,
        discards_penultimate_sigma=plan.sampler.discards_penultimate_sigma,
    )
    process = VarianceExploding()
    clock = _Clock(plan, len(sigmas) - 1, first_image, report)
    previews = PreviewMaker(model.latent_preview, report.preview) if preview_every else None
    try:
        for start in range(first_image, plan.num_images, plan.batch_size):
            seeds = [seed_of(plan, index) for index in range(start, min(start + plan.batch_size, plan.num_images))]
            noise = BatchNoise(seeds, model.latent_shape(plan.width, plan.height), plan.noise_source, device=device)

            def watch(evaluation: Evaluation) -> None:
                clock.evaluated(evaluation.step)
                if previews and evaluation.step % preview_every == 0:
                    previews.show(evaluation.x0)

            report.stage("sampling")
            clock.start_batch()
            watched = observed(denoise, watch, evaluations_per_step=plan.sampler.evaluations_per_step)
            latents = plan.sampler.sample(watched, sigmas[0] * noise(), sigmas, process, noise)
            clock.end_batch()
            report.stage("decoding")
            for offset, pixels in enumerate(_decoded(model, latents, is_cancelled)):
                yield GeneratedImage(index=start + offset, seed=seeds[offset], pixels=pixels)
    finally:
        if previews:
            previews.close()


def _conditionings(plan: GenerationPlan, model: Model) -> tuple[Conditioning, Conditioning | None]:
    def encode(text: str) -> Conditioning:
        compiled = model.compile_prompt(text, plan.emphasis)
        return model.encode_prompt(compiled, clip_skip=plan.clip_skip, emphasis=plan.emphasis)

    return encode(plan.prompt), None if plan.guidance_scale == 1 else encode(plan.negative_prompt)


def _decoded(model: Model, latents: Tensor, is_cancelled: Callable[[], bool]) -> Iterator[Pixels]:
    """Pictures [H, W, 3] one after the other; 8 bits by truncation, as A1111 has it."""
    if not bool(latents.isfinite().all()):
        raise NumericalError(
            "The U-Net's result holds values that are not numbers: the checkpoint is damaged, or the guidance scale is "
            "far too high. Choose another checkpoint, or lower the guidance scale."
        )
    for latent in latents.split(1):
        if is_cancelled():
            raise Cancelled
        image = model.decode(latent)[0].float().cpu().clamp(-1, 1)  # [3, H, W]
        yield ((image + 1) * 127.5).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


class _Clock:
    """Steps done, their speed and what is left, over all batches of a job."""

    def __init__(self, plan: GenerationPlan, steps_per_batch: int, first_image: int, report: Report) -> None:
        batches = -(-plan.num_images // plan.batch_size)
        self._steps_per_batch = steps_per_batch
        self._steps = batches * steps_per_batch
        self._done = first_image // plan.batch_size * steps_per_batch
        self._report = report
        self._batch_began = time.monotonic()
        self._step_in_batch = 0

    def start_batch(self) -> None:
        self._batch_began = time.monotonic()
        self._step_in_batch = 0

    def evaluated(self, step: int) -> None:
        """Evaluation number `step` (0-based) of this batch ended."""
        self._step_in_batch = min(step + 1, self._steps_per_batch)
        speed = (time.monotonic() - self._batch_began) / self._step_in_batch
        done = self._done + self._step_in_batch
        self._report.progress(done, self._steps, speed, speed * (self._steps - done))

    def end_batch(self) -> None:
        self._done += self._steps_per_batch
