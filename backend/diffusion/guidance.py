"""Classifier-free guidance (Ho and Salimans 2022) around a conditioned network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from backend.diffusion.prediction import Network


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What the network is told about each image.

    context: token states [B, N, D]. vector: one vector per image [B, V] for families that have it.
    B may be 1 for a batch that shares its prompt.
    """

    context: Tensor
    vector: Tensor | None = None

    def expanded(self, batch: int) -> Conditioning:
        """The same for `batch` images; a view."""
        vector = None if self.vector is None else self.vector.expand(batch, -1)
        return Conditioning(context=self.context.expand(batch, -1, -1), vector=vector)

    def image(self, index: int) -> Conditioning:
        """The part for one image of the batch, as a batch of one."""
        index = index if self.context.shape[0] > 1 else 0
        vector = None if self.vector is None else self.vector[index : index + 1]
        return Conditioning(context=self.context[index : index + 1], vector=vector)


ConditionedNetwork: TypeAlias = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(scaled x [B, C, H, W], timesteps [B], conditioning of B images) -> prediction [B, C, H, W]."""


def classifier_free(
    network: ConditionedNetwork,
    cond: Conditioning,
    uncond: Conditioning | None,
    scale: float,
    *,
    exact_batches: bool = False,
) -> Network:
    """The network with its conditioning bound: uncond + scale * (cond - uncond), combined in float32.

    The prediction of every kind is linear in x0, so this equals guidance on x0. cond and uncond are one call of 2B
    images, or two calls when their contexts differ in length. At scale 1, uncond is not evaluated and may be None.
    exact_batches: call the network once per image, so that an image's bytes do not depend on the others in its batch.

    Raises ValueError when uncond is None at another scale.
    """
    if exact_batches:
        return _image_by_image(network, cond, uncond, scale)
    if scale == 1:
        return lambda x, timesteps: network(x, timesteps, cond.expanded(x.shape[0]))
    if uncond is None:
        raise ValueError(f"guidance of scale {scale} needs an unconditional conditioning")
    both = _evaluate_together if _fit_together(cond, uncond) else _evaluate_apart

    def guided(x: Tensor, timesteps: Tensor) -> Tensor:
        batch = x.shape[0]
        for_uncond, for_cond = both(network, x, timesteps, uncond.expanded(batch), cond.expanded(batch))
        return for_uncond + scale * (for_cond - for_uncond)

    return guided


def _image_by_image(
    network: ConditionedNetwork, cond: Conditioning, uncond: Conditioning | None, scale: float
) -> Network:
    def guided(x: Tensor, timesteps: Tensor) -> Tensor:
        images: list[Tensor] = []
        for index in range(x.shape[0]):
            image_uncond = None if uncond is None else uncond.image(index)
            single = classifier_free(network, cond.image(index), image_uncond, scale)
            images.append(single(x[index : index + 1], timesteps[index : index + 1]))
        return torch.cat(images)

    return guided


def _fit_together(cond: Conditioning, uncond: Conditioning) -> bool:
    return cond.context.shape[1:] == uncond.context.shape[1:] and (cond.vector is None) == (uncond.vector is None)


def _evaluate_together(
    network: ConditionedNetwork, x: Tensor, timesteps: Tensor, uncond: Conditioning, cond: Conditioning
) -> tuple[Tensor, Tensor]:
    vectors = [part.vector for part in (uncond, cond) if part.vector is not None]
    stacked = Conditioning(
        context=torch.cat([uncond.context, cond.context]), vector=torch.cat(vectors) if vectors else None
    )
    for_uncond, for_cond = network(torch.cat([x, x]), torch.cat([timesteps, timesteps]), stacked).float().chunk(2)
    return for_uncond, for_cond


def _evaluate_apart(
    network: ConditionedNetwork, x: Tensor, timesteps: Tensor, uncond: Conditioning, cond: Conditioning
) -> tuple[Tensor, Tensor]:
    return network(x, timesteps, uncond).float(), network(x, timesteps, cond).float()
