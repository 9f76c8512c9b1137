"""Pictures made from a picture: img2img, inpainting and outpainting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.images.inpainting import Prepared, prepare
from backend.init_image import InitImage, ResizeMode
from backend.pipeline.beginning import Beginning, manner_of
from backend.pipeline.course import Stretch
from backend.pipeline.ground import Ground, begun, changed, changed_in_pieces
from backend.pipeline.pixels import Pixels
from backend.pipeline.studio import Studio


@dataclass(frozen=True, kw_only=True)
class Source:
    """A picture to begin with, as it came, and prepared for a plan."""

    init: InitImage
    picture: Image.Image
    prepared: Prepared

    @property
    def is_kept(self) -> bool:
        """Whether its mask lets nothing change."""
        return self.prepared.mask is not None and self.prepared.mask.getbbox() is None

    def unchanged(self) -> Pixels:
        return self.prepared.finish(np.asarray(self.prepared.picture))

    @property
    def ground(self) -> Ground:
        return Ground(
            pictures=(np.asarray(self.prepared.picture),),
            shown=np.asarray(self.prepared.original),
            mask=self.prepared.mask,
            manner=manner_of(self.init),
        )


@dataclass(frozen=True, kw_only=True)
class Made:
    """pictures: as they are saved; each is made when it is asked for, once.

    latents: [B, C, h, w] of these very pictures; None where something else was put around them.
    """

    pictures: Iterable[Pixels]
    latents: Tensor | None


def stored_source(init: InitImage, size: tuple[int, int], studio: Studio) -> Source:
    """What `init` names, for a network that makes pictures of `size`: width, height.

    Raises UnknownName and BadImage.
    """
    find = studio.given().picture
    picture, mask = find(init.picture), find(init.mask.picture) if init.mask else None
    return source_of(init, picture, mask, size, studio)


def source_of(
    init: InitImage, picture: Image.Image, mask: Image.Image | None, size: tuple[int, int], studio: Studio
) -> Source:
    enlarge = partial(studio.given().enlarge, init.upscaler) if init.upscaler else None
    prepared = prepare(picture, mask, init, *size, enlarge)
    for text in prepared.notices:
        studio.report.notice(text)
    return Source(init=init, picture=picture, prepared=prepared)


class PictureMaker:
    """Makes pictures from a source, which is encoded once for all batches.

    size: width, height.
    """

    def __init__(self, stretch: Stretch, source: Source, size: tuple[int, int], studio: Studio) -> None:
        self._trip = stretch.trip
        self._boxes = stretch.boxes
        self._source = source
        self._size = size
        self._studio = studio
        self._beginning: Beginning | None = None

    def make(self, noise: NoiseSource) -> Made:
        """As many as `noise` is for."""
        finish = self._source.prepared.finish
        if self._boxes:
            ground = self._source.ground
            pieces = changed_in_pieces(self._trip, self._boxes, ground, noise, self._size, self._studio)
            return Made(pictures=map(finish, pieces), latents=None)
        self._beginning = self._beginning or self._begun()
        latents = changed(self._trip, self._source.ground, self._beginning, noise, self._studio)
        pictures = map(finish, self._studio.decode(self._trip.model, latents))
        is_whole = self._source.prepared.mask is None and not self._source.init.color_correction
        return Made(pictures=pictures, latents=latents if is_whole else None)

    def _begun(self) -> Beginning:
        source, trip = self._source, self._trip
        if source.init.resize is not ResizeMode.LATENT or source.prepared.mask is not None:
            return begun(source.ground, trip, self._studio)
        # As A1111's "just resize (latent upscale)": encoded at its own size, and stretched.
        width, height = (max(64, side // 8 * 8) for side in source.picture.size)
        own = source.picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        latents = self._studio.encode(trip.model, [np.asarray(own)])
        _, *size = trip.model.latent_shape(*self._size)
        return Beginning(latents=F.interpolate(latents, size=size, mode="bilinear"), manner=manner_of(source.init))
