"""Classifier-free guidance (Ho and Salimans 2022) around a conditioned network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from backend.diffusion.prediction import Network

Text: TypeAlias = "tuple[Tensor, Tensor | None, Tensor | None, float | None]"
"""What a `Conditioning` is without its image; equal for the same tensors, not for equal ones."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioning:
    """What the network is told: G groups, of which group g is for B consecutive images of a batch of G * B.

    context: token states [G, N, D]. mask: which of them count [G, N], bool; all when None.
    vector: one vector per group [G, V] for families that have it.
    guidance: the scale that the network itself is told (FLUX.1 dev, LCM), or None.
    lost_tokens: of the text that the encoder had no room for.
    image: further input channels [G, C, h, w] (inpainting, InstructPix2Pix), or None.

    One object is passed at all steps of a run, so that a network can keep what it computes from it. What does not
    depend on the image is kept under `text`, which conditionings share that differ in the image alone.
    """

    context: Tensor
    vector: Tensor | None = None
    mask: Tensor | None = None
    guidance: float | None = None
    image: Tensor | None = None
    lost_tokens: int = 0

    @property
    def groups(self) -> int:
        return self.context.shape[0]

    @property
    def text(self) -> Text:
        return self.context, self.vector, self.mask, self.guidance

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
    rescale: float = 0.0,
    sequential: bool = False,
    exact_batches: bool = False,
) -> Network:
    """The network with its conditioning bound: uncond + scale * (cond - uncond), combined in float32.

    The prediction of every kind is linear in x0, so this equals guidance on x0. At scale 1, uncond is not evaluated
    and may be None. rescale: see `rescaled`.
    sequential: one call of the network for each conditioning, which takes less memory than one call for both; equal up
    to rounding. It is done anyway when their contexts differ in length.
    exact_batches: call the network once per image, so that an image's bytes do not depend on the others in its batch.

    Raises ValueError when uncond is None at another scale.
    """

    def combine(predictions: Sequence[Tensor]) -> Tensor:
        for_uncond, for_cond = predictions
        return rescaled(for_uncond + scale * (for_cond - for_uncond), for_cond, rescale)

    if scale == 1:
        return _bound(network, [cond], _only, sequential, exact_batches)
    if uncond is None:
        raise ValueError(f"guidance of scale {scale} needs an unconditional conditioning")
    return _bound(network, [uncond, cond], combine, sequential, exact_batches)


def image_and_text(
    network: ConditionedNetwork,
    cond: Conditioning,
    uncond: Conditioning,
    *,
    image_scale: float,
    text_scale: float,
    rescale: float = 0.0,
    sequential: bool = False,
    exact_batches: bool = False,
) -> Network:
    """Guidance by an image and by a text, of InstructPix2Pix (Brooks et al. 2023, equation 3).

    nothing + image_scale * (image - nothing) + text_scale * (both - image), where the network is given neither, the
    image alone, and the image with the text. cond and uncond hold the image; without it, it is zeros.

    Raises ValueError when they do not hold an image.
    """
    if cond.image is None or uncond.image is None:
        raise ValueError("guidance by an image needs conditionings with an image")
    if image_scale == 1:  # nothing cancels
        return classifier_free(
            network, cond, uncond, text_scale, rescale=rescale, sequential=sequential, exact_batches=exact_batches
        )
    nothing = dataclasses.replace(uncond, image=torch.zeros_like(uncond.image))

    def combine(predictions: Sequence[Tensor]) -> Tensor:
        for_nothing, for_image, for_both = predictions
        guided = for_nothing + image_scale * (for_image - for_nothing) + text_scale * (for_both - for_image)
        return rescaled(guided, for_both, rescale)

    return _bound(network, [nothing, uncond, cond], combine, sequential, exact_batches)


def rescaled(guided: Tensor, for_cond: Tensor, share: float) -> Tensor:
    """`guided`, of which `share` (0..1) has the standard deviation, per image, of the conditional prediction.

    Against the glaring pictures of zero-terminal-SNR models, with 0.7 (Lin et al. 2023, equations 15 and 16).
    """
    if share == 0:
        return guided
    dims = (1, 2, 3)
    ratio = for_cond.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
    return guided * (share * ratio + (1 - share))


_Combine: TypeAlias = Callable[[Sequence[Tensor]], Tensor]


def _only(predictions: Sequence[Tensor]) -> Tensor:
    return predictions[0]


def _bound(
    network: ConditionedNetwork, parts: Sequence[Conditioning], combine: _Combine, sequential: bool, exact_batches: bool
) -> Network:
    """The predictions for the same x under all of `parts`, combined in float32."""
    if exact_batches:
        groups = max(part.groups for part in parts)
        alone = ([part.group(index) for part in parts] for index in range(groups))
        return _image_by_image([_bound(network, each, combine, sequential, False) for each in alone])
    if len(parts) > 1 and not sequential and fit_together(*parts):
        return _together(network, parts, combine)
    return lambda x, timesteps: combine([network(x, timesteps, part).float() for part in parts])


def _together(network: ConditionedNetwork, parts: Sequence[Conditioning], combine: _Combine) -> Network:
    count, all_parts = len(parts), stacked(*parts)

    def guided(x: Tensor, timesteps: Tensor) -> Tensor:
        predicted = network(x.repeat(count, 1, 1, 1), timesteps.repeat(count), all_parts).float()
        return combine(predicted.chunk(count))

    return guided


def _image_by_image(groups: Sequence[Network]) -> Network:
    def guided(x: Tensor, timesteps: Tensor) -> Tensor:
        per_group = x.shape[0] // len(groups)
        images = zip(x.split(1), timesteps.split(1), strict=True)
        return torch.cat([groups[index // per_group](*image) for index, image in enumerate(images)])

    return guided


def _shape(part: Conditioning) -> tuple[object, ...]:
    optional = (part.vector, part.mask, part.image)
    return (part.guidance, part.context.shape, *(None if tensor is None else tensor.shape for tensor in optional))
