"""The stretches of a picture's way from noise: one model goes the whole of it, or a refiner goes the last part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeAlias

from backend.diffusion.guidance import Conditioning, classifier_free, fit_together
from backend.diffusion.levels import Levels
from backend.diffusion.prediction import denoiser
from backend.diffusion.process import Denoise
from backend.diffusion.schedules import sigmas_for
from backend.errors import RequestError
from backend.families.family import Evaluation, Model, Prompt
from backend.pipeline.plan import GenerationPlan, RefinerPlan
from backend.pipeline.step_models import StepDenoiser

EncodePrompt: TypeAlias = Callable[[Model, Prompt], Conditioning]
ModelOfStep: TypeAlias = Callable[[int, int], Model]
"""(step, counted from 0, and how many steps the job has, with the refiner's) -> the model that makes it."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Noise levels that one model goes through. uncond: None without classifier-free guidance.

    model_at: the model of a step, counted from 0, where its weights change on the way; equal ones are one object.
    """

    model: Model
    model_at: Callable[[int], Model]
    levels: Levels
    sigmas: list[float]
    cond: Conditioning
    uncond: Conditioning | None

    @property
    def num_steps(self) -> int:
        return len(self.sigmas) - 1


def passes_of(
    plan: GenerationPlan,
    model: Model,
    refiner: Model | None,
    encode: EncodePrompt,
    models: ModelOfStep | None = None,
) -> list[Pass]:
    """The passes of a job, none without steps, with their prompts encoded.

    models: for the steps before the refiner; None for `model` in all of them. What they know of levels and latents is
    that of `model`, which reads the prompts.
    Raises RequestError for a refiner whose latents are not those of the model, and what encoding raises.
    """
    levels = model.levels(plan.width, plan.height, plan.shift)
    sigmas = sigmas_for(
        plan.schedule, plan.steps, levels, discards_penultimate_sigma=plan.sampler.discards_penultimate_sigma
    )
    model_at = _one(model) if models is None else cache(partial(_model_at, models, len(sigmas) - 1))
    if refiner is None or plan.refiner is None:
        return [_pass(plan, model, model_at, levels, sigmas, encode)]
    _check_refiner(plan, model, refiner)
    switch = steps_before_refiner(plan.refiner, sigmas, levels)
    refiner_levels = refiner.levels(plan.width, plan.height, plan.shift)
    stretches = (
        (model, model_at, levels, sigmas[: switch + 1]),
        (refiner, _one(refiner), refiner_levels, sigmas[switch:]),
    )
    return [_pass(plan, *stretch, encode) for stretch in stretches if len(stretch[3]) > 1]


def steps_before_refiner(refiner: RefinerPlan, sigmas: list[float], levels: Levels) -> int:
    """How many steps the first model makes."""
    if refiner.switch_timestep is not None:
        return sum(levels.timestep(sigma) >= refiner.switch_timestep for sigma in sigmas[:-1])
    return math.ceil(refiner.switch * (len(sigmas) - 1) - 1e-9)


def denoise_of(part: Pass, plan: GenerationPlan) -> Denoise:
    """The function that the sampler calls; brings the network's weights into reach.

    Conditionings are evaluated one after the other where memory is too short for both at once. Raises OutOfMemory.
    """
    return StepDenoiser(part.sigmas, part.model_at, partial(_denoise_with, part, plan))


def _denoise_with(part: Pass, plan: GenerationPlan, model: Model, steps: Sequence[int]) -> Denoise:
    scarce = model.plan_if_scarce(evaluation_of(part, plan))
    sigmas = part.sigmas[steps[0] : steps[-1] + 2]  # samplers also look at where a step ends
    timesteps = [part.levels.timestep(sigma) for sigma in sigmas if sigma > 0]
    network = classifier_free(
        model.network(timesteps, scarce.working_bytes if scarce else 0),
        part.cond,
        part.uncond,
        plan.guidance_scale,
        rescale=plan.guidance_rescale,
        sequential=scarce is not None and not scarce.is_batched,
        exact_batches=plan.exact_batches,
    )
    return denoiser(network, part.model.prediction, part.levels)


def evaluation_of(part: Pass, plan: GenerationPlan) -> Evaluation:
    """The largest that the network of a pass is asked for."""
    sides = 1 if part.uncond is None or not fit_together(part.cond, part.uncond) else 2
    return Evaluation(
        images=sides * (1 if plan.exact_batches else plan.batch_size),
        width=plan.width,
        height=plan.height,
        tokens=part.cond.context.shape[1],
    )


def _one(model: Model) -> Callable[[int], Model]:
    return lambda step: model


def _model_at(models: ModelOfStep, num_steps: int, step: int) -> Model:
    return models(step, num_steps)


def _pass(
    plan: GenerationPlan,
    model: Model,
    model_at: Callable[[int], Model],
    levels: Levels,
    sigmas: list[float],
    encode: EncodePrompt,
) -> Pass:
    def prompt(text: str, *, is_negative: bool) -> Conditioning:
        return encode(
            model,
            Prompt(
                text=text,
                is_negative=is_negative,
                clip_skip=plan.clip_skip,
                emphasis=plan.emphasis,
                width=plan.width,
                height=plan.height,
                distilled_guidance=plan.distilled_guidance,
                embeddings=plan.embeddings.negative_prompt if is_negative else plan.embeddings.prompt,
            ),
        )

    cond = prompt(plan.words, is_negative=False)
    uncond = None if plan.guidance_scale == 1 else prompt(plan.negative_words, is_negative=True)
    return Pass(model=model, model_at=model_at, levels=levels, sigmas=sigmas, cond=cond, uncond=uncond)


def _check_refiner(plan: GenerationPlan, model: Model, refiner: Model) -> None:
    size = plan.width, plan.height
    if model.latent_shape(*size) != refiner.latent_shape(*size) or type(model.process) is not type(refiner.process):
        raise RequestError("refiner", f"{refiner.family} does not work with the latents of {model.family}; choose a "
                           "refiner of the same kind, or none")  # fmt: skip
