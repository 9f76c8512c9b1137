"""The second pass of hires fix: the picture is enlarged and made again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from backend.pipeline.beginning import Beginning
from backend.pipeline.course import Stretch
from backend.pipeline.enlarging import Enlargement, cut_to, enlarged_latents, enlargement_of
from backend.pipeline.from_picture import Made
from backend.pipeline.ground import Ground, begun, changed, changed_in_pieces
from backend.pipeline.pixels import Pixels
from backend.pipeline.plan import SecondPass
from backend.pipeline.studio import Studio


def second_pass(second: SecondPass, stretch: Stretch, made: Made, seeds: Sequence[int], studio: Studio) -> Made:
    """The pictures at the size of the second plan. New generators with the same seeds draw its noise, as A1111 has it.

    made: by the first pass.
    """
    before, trip, boxes = list(made.pictures), stretch.trip, stretch.boxes
    height, width = before[0].shape[:2]
    size = enlargement_of(second.hires, width, height)
    studio.report.stage("enlarging")
    plan, by = second.plan, second.latent_upscaler
    noise = studio.noise_for(plan, trip.model, seeds)
    if by is not None and made.latents is not None and not boxes:
        latents = enlarged_latents(made.latents, by, size)
        shown = _enlarged(before[0], None, size, studio)
        result = changed(trip, Ground(pictures=(shown,), shown=shown), Beginning(latents=latents), noise, studio)
        return Made(pictures=studio.decode(trip.model, result), latents=result)
    name = second.hires.upscaler if by is None else None
    pictures = tuple(_enlarged(picture, name, size, studio) for picture in before)
    ground = Ground(pictures=pictures, shown=pictures[0])
    if boxes:
        pieces = changed_in_pieces(trip, boxes, ground, noise, (plan.width, plan.height), studio)
        return Made(pictures=pieces, latents=None)
    result = changed(trip, ground, begun(ground, trip, studio), noise, studio)
    return Made(pictures=studio.decode(trip.model, result), latents=result)


def _enlarged(pixels: Pixels, upscaler: str | None, size: Enlargement, studio: Studio) -> Pixels:
    """By an upscaler, or by Lanczos."""
    picture = Image.fromarray(pixels)
    if upscaler is None:
        large = picture.resize((size.width, size.height), Image.Resampling.LANCZOS)
    else:
        large = studio.given().enlarge(upscaler, picture, size.width, size.height)
    return np.asarray(cut_to(large, size))
