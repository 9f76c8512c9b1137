"""The stretches of a picture's way from noise: one model goes the whole of it, or a refiner goes the last part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TypeAlias

from torch import Tensor

from backend.diffusion.denoising_strength import sigmas_of_rest
from backend.diffusion.guidance import Conditioning, classifier_free, fit_together, image_and_text
from backend.diffusion.levels import Levels
from backend.diffusion.prediction import denoiser
from backend.diffusion.process import Denoise
from backend.diffusion.schedules import sigmas_for
from backend.errors import RequestError
from backend.families.family import Evaluation, Model, PictureUse, Prompt
from backend.pipeline.beginning import Manner
from backend.pipeline.network_tiles import network_size, seen_in_tiles
from backend.pipeline.plan import GenerationPlan, RefinerPlan
from backend.pipeline.step_models import StepDenoiser

EncodePrompt: TypeAlias = Callable[[Model, Prompt], Conditioning]
ModelOfStep: TypeAlias = Callable[[int, int], Model]
"""(step, counted from 0, and how many steps the job has, with the refiner's) -> the model that makes it."""


@dataclass(frozen=True, kw_only=True)
class Rest:
    """What is left of a schedule, see `sigmas_of_rest`."""

    strength: float
    exact_steps: bool


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Noise levels that one model goes through. uncond: None without classifier-free guidance.

    model_at: the model of a step, counted from 0, where its weights change on the way; equal ones are one object.
    image_guidance: how closely a network that edits pictures keeps to the one that it is shown; None for others.
    """

    model: Model
    model_at: Callable[[int], Model]
    levels: Levels
    sigmas: list[float]
    cond: Conditioning
    uncond: Conditioning | None
    image_guidance: float | None = None

    @property
    def num_steps(self) -> int:
        return len(self.sigmas) - 1


def passes_of(
    plan: GenerationPlan,
    model: Model,
    refiner: Model | None,
    encode: EncodePrompt,
    models: ModelOfStep | None = None,
    *,
    refiner_models: ModelOfStep | None = None,
    rest: Rest | None = None,
) -> list[Pass]:
    """The passes of a job, none without steps, with their prompts encoded.

    rest: what is left of the schedule where a picture is there to begin with.
    models: for the steps before the refiner; None for `model` in all of them. What they know of levels and latents is
    that of `model`, which reads the prompts. refiner_models: the same for the steps of the refiner.
    Raises RequestError for a refiner whose latents are not those of the model, and what encoding raises.
    """
    levels = model.levels(*network_size(plan), plan.shift)
    sigmas = _sigmas(plan, levels, rest)
    num_steps = len(sigmas) - 1
    model_at = _by_step(model, models, 0, num_steps)
    if len(sigmas) < 2:
        return []
    if refiner is None or plan.refiner is None:
        return [_pass(plan, model, model_at, levels, sigmas, encode)]
    _check_refiner(plan, model, refiner)
    switch = steps_before_refiner(plan.refiner, sigmas, levels)
    refiner_levels = refiner.levels(*network_size(plan), plan.shift)
    stretches = (
        (model, model_at, levels, sigmas[: switch + 1]),
        (refiner, _by_step(refiner, refiner_models, switch, num_steps), refiner_levels, sigmas[switch:]),
    )
    return [_pass(plan, *stretch, encode) for stretch in stretches if len(stretch[3]) > 1]


def showing(passes: Sequence[Pass], picture: Tensor, mask: Tensor | None, manner: Manner) -> list[Pass]:
    """The passes, whose networks see the picture if they are made for that.

    picture: [1, 3, H, W] in -1..1. mask: [1, 1, H, W], 1 where it changes and 0 elsewhere, None for everywhere.
    """
    return [_showing(part, picture, mask, manner) for part in passes]


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
    evaluation = evaluation_of(part, plan)
    scarce = model.plan_if_scarce(evaluation)
    sigmas = part.sigmas[steps[0] : steps[-1] + 2]  # samplers also look at where a step ends
    timesteps = [part.levels.timestep(sigma) for sigma in sigmas if sigma > 0]
    whole = model.network(timesteps, scarce.working_bytes if scarce else 0)
    evaluate = seen_in_tiles(whole, plan, model, evaluation, is_scarce=scarce is not None)
    sequential = scarce is not None and not scarce.is_batched
    if part.image_guidance is None or part.uncond is None:
        network = classifier_free(
            evaluate,
            part.cond,
            part.uncond,
            plan.guidance_scale,
            rescale=plan.guidance_rescale,
            sequential=sequential,
            exact_batches=plan.exact_batches,
        )
    else:
        network = image_and_text(
            evaluate,
            part.cond,
            part.uncond,
            image_scale=part.image_guidance,
            text_scale=plan.guidance_scale,
            rescale=plan.guidance_rescale,
            sequential=sequential,
            exact_batches=plan.exact_batches,
        )
    return denoiser(network, part.model.prediction, part.levels)


def evaluation_of(part: Pass, plan: GenerationPlan) -> Evaluation:
    """The largest that the network of a pass is asked for; of tiles, one."""
    sides = 1 if part.uncond is None or not fit_together(part.cond, part.uncond) else 2
    sides = 3 if sides == 2 and part.image_guidance not in (None, 1) else sides
    width, height = network_size(plan)
    return Evaluation(
        images=sides * (1 if plan.exact_batches else plan.batch_size),
        width=width,
        height=height,
        tokens=part.cond.context.shape[1],
    )


def _sigmas(plan: GenerationPlan, levels: Levels, rest: Rest | None) -> list[float]:
    def schedule(steps: int) -> list[float]:
        discards = plan.sampler.discards_penultimate_sigma
        return sigmas_for(plan.schedule, steps, levels, discards_penultimate_sigma=discards)

    if rest is None:
        return schedule(plan.steps)
    return sigmas_of_rest(schedule, plan.steps, rest.strength, exact_steps=rest.exact_steps)


def _showing(part: Pass, picture: Tensor, mask: Tensor | None, manner: Manner) -> Pass:
    if part.model.picture_use is PictureUse.NONE:
        return part
    channels = part.model.picture_channels(picture, mask, manner.conditioning_weight)
    return replace(
        part,
        cond=replace(part.cond, image=channels),
        uncond=None if part.uncond is None else replace(part.uncond, image=channels),
        image_guidance=manner.image_guidance if part.model.takes_image_guidance else None,
    )


def _by_step(model: Model, models: ModelOfStep | None, first: int, num_steps: int) -> Callable[[int], Model]:
    """The model of a step of a pass that begins with step `first` of the job."""

    def at(step: int) -> Model:
        return model if models is None else models(first + step, num_steps)

    return cache(at)


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
