"""Classifier-free guidance (Ho and Salimans 2022) around a conditioned network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from backend.diffusion.prediction import Network


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioning:
    """What the network is told: G groups, of which group g is for B consecutive images of a batch of G * B.

    context: token states [G, N, D]. mask: which of them count [G, N], bool; all when None.
    vector: one vector per group [G, V] for families that have it.
    guidance: the scale that the network itself is told (FLUX.1 dev, LCM), or None.
    image: further input channels [G, C, h, w] (inpainting, InstructPix2Pix), or None.

    One object is passed at all steps of a run, so that a network can keep what it computes from it.
    """

    context: Tensor
    vector: Tensor | None = None
    mask: Tensor | None = None
    guidance: float | None = None
    image: Tensor | None = None

    @property
    def groups(self) -> int:
        return self.context.shape[0]

    def group(self, index: int) -> Conditioning:
        """Group `index` alone; the only one, when there is just one."""
        index = index if self.groups > 1 else 0

        def part(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[index : index + 1]

        return dataclasses.replace(
            self,
            context=self.context[index : index + 1],
            vector=part(self.vector),
            mask=part(self.mask),
            image=part(self.image),
        )


ConditionedNetwork: TypeAlias = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(scaled x [G * B, C, H, W], timesteps [G * B], conditioning of G groups) -> prediction [G * B, C, H, W]."""


def stacked(*parts: Conditioning) -> Conditioning:
    """The groups of all `parts`, one after the other. Raises ValueError for parts that do not `fit_together`."""
    if not fit_together(*parts):
        raise ValueError("conditionings of different shapes cannot be evaluated in one call")

    def cat(tensors: list[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(present) if present else None

    return Conditioning(
        context=torch.cat([part.context for part in parts]),
        vector=cat([part.vector for part in parts]),
        mask=cat([part.mask for part in parts]),
        guidance=parts[0].guidance,
        image=cat([part.image for part in parts]),
    )


def fit_together(*parts: Conditioning) -> bool:
    """Whether one call of the network can evaluate all of them."""
    return len({_shape(part) for part in parts}) == 1


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
        return lambda x, timesteps: network(x, timesteps, cond)
    if uncond is None:
        raise ValueError(f"guidance of scale {scale} needs an unconditional conditioning")
    if not fit_together(cond, uncond):
        return _apart(network, cond, uncond, scale)
    both = stacked(uncond, cond)

    def guided(x: Tensor, timesteps: Tensor) -> Tensor:
        predicted = network(torch.cat([x, x]), torch.cat([timesteps, timesteps]), both).float()
        for_uncond, for_cond = predicted.chunk(2)
        return for_uncond + scale * (for_cond - for_uncond)

    return guided


def _apart(network: ConditionedNetwork, cond: Conditioning, uncond: Conditioning, scale: float) -> Network:
    def guided(x: Tensor, timesteps: Tensor) -> Tensor:
        for_uncond, for_cond = (network(x, timesteps, part).float() for part in (uncond, cond))
        return for_uncond + scale * (for_cond - for_uncond)

    return guided


def _image_by_image(
    network: ConditionedNetwork, cond: Conditioning, uncond: Conditioning | None, scale: float
) -> Network:
    groups = cond.groups
    singles = [
        classifier_free(network, cond.group(index), None if uncond is None else uncond.group(index), scale)
        for index in range(groups)
    ]

    def guided(x: Tensor, timesteps: Tensor) -> Tensor:
        per_group = x.shape[0] // groups
        images = [
            singles[index // per_group](x[index : index + 1], timesteps[index : index + 1])
            for index in range(x.shape[0])
        ]
        return torch.cat(images)

    return guided


def _shape(part: Conditioning) -> tuple[object, ...]:
    optional = (part.vector, part.mask, part.image)
    return (part.context.shape, *(None if tensor is None else tensor.shape for tensor in optional))
