"""Where pictures are worked on: what every stretch of a job's way uses, and both its ends, to latents and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from backend.diffusion.noise import BatchNoise
from backend.errors import Cancelled
from backend.families.family import Model
from backend.pipeline.means import Means
from backend.pipeline.pixels import Pixels, image_tensor, pixels_of
from backend.pipeline.plan import GenerationPlan
from backend.pipeline.report import Report
from backend.pipeline.trip import Retrying, Watched


@dataclass(frozen=True, kw_only=True)
class Studio:
    """watched: see there. means: see `generate`."""

    watched: Watched
    device: torch.device | str
    means: Means | None

    @property
    def report(self) -> Report:
        return self.watched.report

    @property
    def retry(self) -> Retrying:
        return self.watched.retry

    @property
    def is_cancelled(self) -> Callable[[], bool]:
        return self.watched.is_cancelled

    def given(self) -> Means:
        """The means of a plan that needs some. Raises ValueError where there are none."""
        if self.means is None:
            raise ValueError("this plan begins with a picture or has a second pass, which needs `means`")
        return self.means

    def noise_for(self, plan: GenerationPlan, model: Model, seeds: Sequence[int]) -> BatchNoise:
        shape = model.latent_shape(plan.width, plan.height)
        return BatchNoise(seeds, shape, plan.noise_source, device=self.device)

    def decode(self, model: Model, latents: Tensor) -> Iterator[Pixels]:
        """The pictures of [B, C, h, w], one after the other. Raises Cancelled between two of them."""
        self.report.stage("decoding")
        for latent in latents.split(1):
            if self.is_cancelled():
                raise Cancelled
            yield pixels_of(self.retry(partial(model.decode, latent))[0])

    def encode(self, model: Model, pictures: Sequence[Pixels]) -> Tensor:
        """Latents [B, C, h, w] of pictures of one size."""
        self.report.stage("encoding the picture")
        tensors = [image_tensor(picture) for picture in pictures]
        return torch.cat([self.retry(partial(model.encode, tensor)) for tensor in tensors])
