"""Details of a finished picture, made again one after the other at the size that the network is good at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from backend.errors import Cancelled
from backend.images.masks import fitted, mask_of, rounded
from backend.images.regions import parts, regions
from backend.init_image import InitImage, InpaintArea, MaskInput
from backend.pipeline.course import Stretch
from backend.pipeline.from_picture import PictureMaker, source_of
from backend.pipeline.pixels import Pixels
from backend.pipeline.plan import DetailPass
from backend.pipeline.studio import Studio
from backend.second_pass import MAX_REGIONS, Detailer, Rectangle


def detailed(details: DetailPass, stretch: Stretch, picture: Pixels, seed: int, studio: Studio) -> Pixels:
    """The picture [H, W, 3] with the regions of one detailer made again; outside of them it stays as it is.

    Every region sees those before it, and draws the same noise. stretch: of the plan of the details.
    """
    plan, detailer = details.plan, details.detailer
    masks = list(_masks(detailer, Image.fromarray(picture), studio))
    if not masks:
        studio.report.notice("The detailer found nothing to make again.")
    for number, mask in enumerate(masks, 1):
        if studio.is_cancelled():
            raise Cancelled
        studio.report.stage(f"details {number} of {len(masks)}")
        init = _init(detailer, picture, mask)
        source = source_of(init, Image.fromarray(picture), mask, (plan.width, plan.height), studio)
        noise = studio.noise_for(plan, stretch.trip.model, [seed])
        picture = next(iter(PictureMaker(stretch, source, (plan.width, plan.height), studio).make(noise).pictures))
    return picture


def _masks(detailer: Detailer, picture: Image.Image, studio: Studio) -> Iterator[Image.Image]:
    """Grey pictures of the picture's size, white in one region each. Rectangles outside of it are told."""
    for rectangle in detailer.rectangles:
        if rectangle.x < picture.width and rectangle.y < picture.height:
            yield _drawn(rectangle, picture.size)
        else:
            studio.report.notice(
                f"The rectangle at {rectangle.x}, {rectangle.y} lies outside of the picture, which has "
                f"{picture.width} x {picture.height} pixels, and was passed over."
            )
    if detailer.mask is not None:
        painted = rounded(fitted(mask_of(studio.given().picture(detailer.mask)), picture.size))
        if len(regions(painted, MAX_REGIONS + 1)) > MAX_REGIONS:
            studio.report.notice(
                f"The mask of the details has more than {MAX_REGIONS} separate parts; "
                f"only the largest {MAX_REGIONS} are made again."
            )
        yield from parts(painted, MAX_REGIONS)
    if detailer.detector is not None:
        yield from studio.given().detect(detailer.detector, picture)


def _drawn(rectangle: Rectangle, size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size)
    right, bottom = rectangle.x + rectangle.width - 1, rectangle.y + rectangle.height - 1
    ImageDraw.Draw(mask).rectangle((rectangle.x, rectangle.y, right, bottom), fill=255)
    return mask


def _init(detailer: Detailer, picture: Pixels, mask: Image.Image) -> InitImage:
    return InitImage(
        picture=_name(picture),
        denoising_strength=detailer.denoising_strength,
        exact_steps=False,
        mask=MaskInput(
            picture=_name(np.asarray(mask)), blur=detailer.blur, area=InpaintArea.MASKED, padding=detailer.padding
        ),
    )


def _name(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> str:
    """What stands for a picture that is in no file."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()
