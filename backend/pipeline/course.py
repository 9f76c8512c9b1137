"""All trips of a job in their order, with their prompts encoded, before the first of them begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from backend.pipeline.ground import pieces_of
from backend.pipeline.means import Means, OpenedModels
from backend.pipeline.passes import EncodePrompt, Pass, Rest, passes_of
from backend.pipeline.plan import GenerationPlan
from backend.pipeline.trip import Trip
from backend.tile_boxes import Box


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """trip: of the whole picture, or of one of `boxes` where it is made in pieces, one after the other."""

    trip: Trip
    boxes: tuple[Box, ...] = ()

    @property
    def num_steps(self) -> int:
        return self.trip.num_steps * max(1, len(self.boxes))


@dataclass(frozen=True, kw_only=True)
class Course:
    """first, second: with hires fix. details: of each of the plan's, and in how many regions as far as is known."""

    first: Stretch
    second: Stretch | None
    details: tuple[Stretch, ...]
    num_regions: tuple[int, ...]

    def num_steps(self, batch_size: int) -> int:
        """Of a batch. Details are made picture by picture."""
        batched = self.first.num_steps + (self.second.num_steps if self.second else 0)
        details = zip(self.details, self.num_regions, strict=True)
        return batched + batch_size * sum(stretch.num_steps * count for stretch, count in details)

    def passes(self) -> Iterator[Pass]:
        for stretch in (self.first, *([self.second] if self.second else []), *self.details):
            yield from stretch.trip.passes


def course_of(plan: GenerationPlan, first: OpenedModels, encode: EncodePrompt, means: Means | None) -> Course:
    """Raises what opening models and encoding prompts raises; ValueError for a plan that needs `means`."""

    def opened(plan: GenerationPlan) -> OpenedModels:
        if means is None:
            raise ValueError("this plan goes on after its first pass, which needs `means`")
        return means.open_models(plan)

    rest = None if plan.init is None else Rest(strength=plan.init.denoising_strength, exact_steps=plan.init.exact_steps)
    second = None
    if plan.hires is not None:
        again = Rest(strength=plan.hires.hires.denoising_strength, exact_steps=True)
        second = _stretch(plan.hires.plan, opened(plan.hires.plan), again, encode, "the second pass")
    return Course(
        first=_stretch(plan, first, rest, encode),
        second=second,
        details=tuple(
            _stretch(
                one.plan,
                opened(one.plan),
                Rest(strength=one.detailer.denoising_strength, exact_steps=False),
                encode,
                "details",
            )
            for one in plan.details
        ),
        num_regions=tuple(max(1, len(one.detailer.rectangles)) for one in plan.details),
    )


def _stretch(
    plan: GenerationPlan, models: OpenedModels, rest: Rest | None, encode: EncodePrompt, name: str = ""
) -> Stretch:
    piece, boxes = (plan, []) if rest is None else pieces_of(plan)
    passes = passes_of(
        piece,
        models.model,
        models.refiner,
        encode,
        models.models,
        refiner_models=models.refiner_models,
        rest=rest,
    )
    return Stretch(trip=Trip(plan=piece, model=models.model, passes=passes, name=name), boxes=tuple(boxes))
