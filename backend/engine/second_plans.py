"""What follows the first pass of a picture, as requests of their own: they are planned like any other."""

from __future__ import annotations

from dataclasses import replace

from backend.pipeline.enlarging import enlarged_size
from backend.pipeline.plan import GenerationPlan
from backend.request import GenerationRequest, check_size
from backend.second_pass import Detailer, HiresFix


def hires_request(
    request: GenerationRequest,
    plan: GenerationPlan,
    hires: HiresFix,
    first_size: tuple[int, int],
    size_step: int,
) -> GenerationRequest:
    """The second pass of hires fix. plan: of the first one; what `hires` leaves open is as there.

    first_size: width and height of the first pass's picture. size_step: of the second pass's model.
    Raises RequestError, which names the field of `hires`.
    """
    width, height = enlarged_size(hires, *first_size, size_step)
    check_size("hires.scale", width, height)
    again = replace(
        _alone(request, plan),
        width=width,
        height=height,
        prompt=hires.prompt or request.prompt,
        negative_prompt=hires.negative_prompt or request.negative_prompt,
        sampler=hires.sampler or plan.sampler.name,
        schedule=hires.schedule or _schedule_of(plan),
        steps=hires.steps or plan.steps,
        guidance_scale=plan.guidance_scale if hires.guidance_scale is None else hires.guidance_scale,
    )
    if hires.checkpoint is None:
        return again
    return replace(
        again,
        checkpoint=hires.checkpoint,
        recipe=None,
        vae=None,
        text_encoders=(),
        use_ema=False,
        prediction=None,
        shift=None,
        distilled_guidance=None,
    )


def detail_request(
    request: GenerationRequest, plan: GenerationPlan, detailer: Detailer, native_size: int
) -> GenerationRequest:
    """One region of the finished picture. plan: of the first pass. native_size: of the model, in pixels."""
    size = (detailer.size or native_size) // plan.size_step * plan.size_step
    return replace(
        _alone(request, plan),
        width=size,
        height=size,
        prompt=detailer.prompt or request.prompt,
        negative_prompt=detailer.negative_prompt or request.negative_prompt,
        sampler=plan.sampler.name,
        schedule=_schedule_of(plan),
        steps=detailer.steps or plan.steps,
        guidance_scale=plan.guidance_scale,
        refiner=None,
        tiles=None,
    )


def _alone(request: GenerationRequest, plan: GenerationPlan) -> GenerationRequest:
    """Without anything before or after it."""
    return replace(request, init=None, hires=None, detailers=(), seed=plan.seed)


def _schedule_of(plan: GenerationPlan) -> str:
    return plan.schedule.name if plan.is_schedule_asked else "automatic"
