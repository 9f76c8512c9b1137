"""Whether a job would fit into the memory, by the headers of its files and a calculation: nothing is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from backend.errors import OutOfMemory
from backend.families.family import Evaluation, Model
from backend.memory.planner import Plan, will_it_fit
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


def fit_report(plan: GenerationPlan, models: list[Model], budget: int) -> FitReport:
    """models: the model, and the refiner if there is one."""
    plans: list[Plan] = []
    try:
        for model in models:
            plans.extend(model.text_plans())
            plans.append(model.network_plan(_evaluation(plan, model)))
        plans.append(models[0].decoding_plan(plan.width, plan.height))
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


def _evaluation(plan: GenerationPlan, model: Model) -> Evaluation:
    sides = 1 if plan.guidance_scale == 1 else 2
    channels, _, _ = model.latent_shape(plan.width, plan.height)
    return Evaluation(
        images=sides * (1 if plan.exact_batches else plan.batch_size),
        width=plan.width,
        height=plan.height,
        tokens=_CLIP_TOKENS if channels == 4 else _LONG_TOKENS,
    )
