"""The second pass of hires fix: the picture is enlarged and made again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from backend.pipeline.beginning import Beginning
from backend.pipeline.course import Stretch
from backend.pipeline.enlarging import Enlargement, covering, cut_to, enlarged_latents
from backend.pipeline.from_picture import Made
from backend.pipeline.ground import Ground, begun, changed, changed_in_pieces
from backend.pipeline.pixels import Pixels
from backend.pipeline.plan import SecondPass
from backend.pipeline.studio import Studio
from backend.pipeline.trip import Trip


def second_pass(second: SecondPass, stretch: Stretch, made: Made, seeds: Sequence[int], studio: Studio) -> Made:
    """The pictures at the size of the second plan. New generators with the same seeds draw its noise, as A1111 has it.

    made: by the first pass; its latents, if there are any, are those of the second pass's model.
    """
    before, trip, boxes = list(made.pictures), stretch.trip, stretch.boxes
    plan, by = second.plan, second.latent_upscaler
    height, width = before[0].shape[:2]
    size = covering(width, height, plan.width, plan.height)
    studio.report.stage("enlarging")
    noise = studio.noise_for(plan, trip.model, seeds)
    latents = None if by is None else enlarged_latents(_latents(made, before, trip, studio), by, size)
    if latents is None:
        pictures = tuple(_enlarged(picture, second.hires.upscaler, size, studio) for picture in before)
    elif boxes:
        pictures = tuple(studio.decode(trip.model, latents))
    else:
        pictures = (_enlarged(before[0], None, size, studio),)  # for networks that see it; it is not encoded
    ground = Ground(pictures=pictures, shown=pictures[0])
    if boxes:
        pieces = changed_in_pieces(trip, boxes, ground, noise, (plan.width, plan.height), studio)
        return Made(pictures=pieces, latents=None)
    beginning = begun(ground, trip, studio) if latents is None else Beginning(latents=latents)
    result = changed(trip, ground, beginning, noise, studio)
    return Made(pictures=studio.decode(trip.model, result), latents=result)


def _latents(made: Made, pictures: Sequence[Pixels], trip: Trip, studio: Studio) -> Tensor:
    """Of the first pictures; encoded anew where something was put around what was made, or another model made it."""
    if made.latents is not None:
        return made.latents
    whole = [picture[: picture.shape[0] // 8 * 8, : picture.shape[1] // 8 * 8] for picture in pictures]
    return studio.encode(trip.model, whole)


def _enlarged(pixels: Pixels, upscaler: str | None, size: Enlargement, studio: Studio) -> Pixels:
    """By an upscaler, or by Lanczos."""
    picture = Image.fromarray(pixels)
    if upscaler is None:
        large = picture.resize((size.width, size.height), Image.Resampling.LANCZOS)
    else:
        large = studio.given().enlarge(upscaler, picture, size.width, size.height)
    return np.asarray(cut_to(large, size))
