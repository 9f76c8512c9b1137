"""Pictures at the size of a plan that are changed as far as a mask and a strength let them, whole or in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from PIL import Image
from torch import Tensor

from backend.diffusion.cut_noise import CutNoise
from backend.diffusion.noise import NoiseSource
from backend.images.tiling import blended
from backend.pipeline.beginning import Beginning, Manner, latent_mask
from backend.pipeline.passes import showing
from backend.pipeline.pixels import Pixels, image_tensor, mask_tensor
from backend.pipeline.plan import GenerationPlan
from backend.pipeline.studio import Studio
from backend.pipeline.trip import Trip, denoised
from backend.second_pass import TileMethod
from backend.tile_boxes import Box, tile_boxes


@dataclass(frozen=True, kw_only=True)
class Ground:
    """pictures: [H, W, 3], one for all images of a batch or one for each; they are encoded.

    shown: what networks that are given a picture see. mask: grey, white where it changes; None for everywhere.
    """

    pictures: tuple[Pixels, ...]
    shown: Pixels
    mask: Image.Image | None = None
    manner: Manner = field(default_factory=Manner)

    def cut(self, box: Box) -> Ground:
        corners = box.left, box.top, box.left + box.width, box.top + box.height
        return replace(
            self,
            pictures=tuple(picture[box.rows, box.columns] for picture in self.pictures),
            shown=self.shown[box.rows, box.columns],
            mask=None if self.mask is None else self.mask.crop(corners),
        )


def begun(ground: Ground, trip: Trip, studio: Studio) -> Beginning:
    """Encode it."""
    latents = studio.encode(trip.model, ground.pictures)
    if ground.mask is None:
        return Beginning(latents=latents, manner=ground.manner)
    mask = latent_mask(ground.mask, latents.shape[-2:], is_soft=ground.manner.is_soft)
    return Beginning(latents=latents, mask=mask.to(latents.device), manner=ground.manner)


def changed(trip: Trip, ground: Ground, beginning: Beginning, noise: NoiseSource, studio: Studio) -> Tensor:
    """Clean latents [B, C, h, w]. beginning: of this ground, which is encoded once for many batches."""
    mask = None if ground.mask is None else mask_tensor(ground.mask).round()
    passes = showing(trip.passes, image_tensor(ground.shown), mask, ground.manner)
    return denoised(replace(trip, passes=passes), beginning, noise, studio.watched)


def is_piecewise(plan: GenerationPlan) -> bool:
    """Whether tiles are made one after the other, each to its end."""
    tiles = plan.tiles
    return tiles is not None and tiles.method is TileMethod.SEPARATE and max(plan.width, plan.height) > tiles.size


def pieces_of(plan: GenerationPlan) -> tuple[GenerationPlan, list[Box]]:
    """The plan of one tile, and where the tiles lie; the plan itself, and no tiles, where it is made as a whole."""
    if plan.tiles is None or not is_piecewise(plan):
        return plan, []
    size = plan.tiles.size
    piece = replace(plan, width=min(size, plan.width), height=min(size, plan.height), tiles=None)
    # Tiles begin at whole latents.
    in_latents = tile_boxes(plan.width // 8, plan.height // 8, size // 8, plan.tiles.overlap // 8)
    boxes = [Box(left=8 * one.left, top=8 * one.top, width=8 * one.width, height=8 * one.height) for one in in_latents]
    return piece, boxes


def changed_in_pieces(
    trip: Trip, boxes: Sequence[Box], ground: Ground, noise: NoiseSource, size: tuple[int, int], studio: Studio
) -> list[Pixels]:
    """Pictures [H, W, 3], one for each image of `noise`, with every tile made anew ("SD upscale").

    trip: of one tile. noise: of the whole picture, of which each tile has its part. size: width and height.
    """
    made: list[list[tuple[Box, Pixels]]] = []
    for box in boxes:
        sides = box.left // 8, box.top // 8, box.width // 8, box.height // 8
        part = CutNoise(whole=noise, left=sides[0], top=sides[1], width=sides[2], height=sides[3])
        piece = ground.cut(box)
        latents = changed(trip, piece, begun(piece, trip, studio), part, studio)
        made.append([(box, pixels) for pixels in studio.decode(trip.model, latents)])
    return [blended(tiles, *size) for tiles in zip(*made, strict=True)]
