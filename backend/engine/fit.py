"""Whether a job would fit into the memory, by the headers of its files and a calculation: nothing is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backend.errors import OutOfMemory
from backend.families.family import Evaluation, Model
from backend.memory.planner import Plan, will_it_fit
from backend.pipeline.means import OpenedModels
from backend.pipeline.network_tiles import network_size
from backend.pipeline.plan import GenerationPlan

_CLIP_TOKENS, _LONG_TOKENS = 77, 512  # of a prompt as families read it; a longer one takes hardly more memory


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """fits: whether it runs at all. text: a line for the user. Bytes: weights of the stage that takes the most of them
    with its working memory, and the budget for both. streamed: weights that come and go while a step runs."""

    fits: bool
    text: str
    weights: int
    streamed: int
    working: int
    budget: int


def fit_report(plan: GenerationPlan, opened: Callable[[GenerationPlan], OpenedModels], budget: int) -> FitReport:
    """opened: the models of a plan; second passes have plans of their own."""
    plans: list[Plan] = []
    try:
        for each in plan.all_plans:
            plans += _plans(each, opened(each))
    except OutOfMemory as error:
        return FitReport(fits=False, text=str(error), weights=0, streamed=0, working=0, budget=budget)
    largest = max(plans, key=lambda part: part.placement.num_bytes + part.working_bytes)
    return FitReport(
        fits=True,
        text=will_it_fit(plans),
        weights=largest.placement.num_bytes,
        streamed=sum(part.placement.streamed_bytes for part in plans),
        working=largest.working_bytes,
        budget=budget,
    )


def _plans(plan: GenerationPlan, models: OpenedModels) -> Iterator[Plan]:
    for model in (models.model, *([models.refiner] if models.refiner else [])):
        yield from model.text_plans()
        yield model.network_plan(_evaluation(plan, model))
    if plan.init is not None:
        yield models.model.encoding_plan(plan.width, plan.height)
    yield models.model.decoding_plan(plan.width, plan.height)


def _evaluation(plan: GenerationPlan, model: Model) -> Evaluation:
    sides = 1 if plan.guidance_scale == 1 else 2
    channels, _, _ = model.latent_shape(plan.width, plan.height)
    width, height = network_size(plan)
    return Evaluation(
        images=sides * (1 if plan.exact_batches else plan.batch_size),
        width=width,
        height=height,
        tokens=_CLIP_TOKENS if channels == 4 else _LONG_TOKENS,
    )
