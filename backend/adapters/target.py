"""What a name in an adapter stands for: a weight of a model, or some rows of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.weights.source import TensorSpec

DENOISER = "denoiser"  # the component that is no text encoder


@dataclass(frozen=True, kw_only=True)
class Target:
    """A module of a model, as an adapter sees it.

    weight, bias: keys of the model; bias is "" where there is none. shape: of what the adapter takes for the weight.
    component: DENOISER, or the kind of a text encoder ("clip_l", "clip_h", "clip_g", "t5").
    rows: first and end, where the module is a part of a fused weight.
    is_swapped: whether the adapter has the two halves of the rows in the other order (scale before shift).
    is_transposed: whether the model stores the matrix the other way round.
    takes_latents: whether it is the first layer, which control LoRAs make wider.
    """

    weight: str
    shape: tuple[int, ...]
    component: str = DENOISER
    bias: str = ""
    rows: tuple[int, int] | None = None
    is_swapped: bool = False
    is_transposed: bool = False
    takes_latents: bool = False

    def cut(self, stored: Tensor) -> Tensor:
        """A weight or bias of the model, whole -> what the adapter takes for it. A view where nothing is swapped."""
        part = stored if self.rows is None else stored[self.rows[0] : self.rows[1]]
        part = part.mT if self.is_transposed and part.ndim == 2 else part
        return swapped_halves(part) if self.is_swapped else part

    def restored(self, part: Tensor) -> Tensor:
        """The other way, for what is added to the rows that it stands for."""
        part = swapped_halves(part) if self.is_swapped else part
        return part.mT if self.is_transposed and part.ndim == 2 else part


@dataclass(frozen=True, kw_only=True)
class Named:
    """A target and its names in adapters. kohya: the name that our own files use, "" for parts of fused weights."""

    target: Target
    kohya: str
    names: tuple[str, ...]


def module_target(
    specs: Mapping[str, TensorSpec], module: str, *, component: str = DENOISER, is_swapped: bool = False
) -> Target | None:
    """The target that is the whole module of that path; None where the model has no such weight."""
    weight = next((key for ending in ("weight", "scale") if (key := f"{module}.{ending}") in specs), None)
    if weight is None or not specs[weight].shape:
        return None
    return Target(
        weight=weight,
        shape=specs[weight].shape,
        component=component,
        bias=f"{module}.bias" if f"{module}.bias" in specs else "",
        is_swapped=is_swapped,
    )


def swapped_halves(rows: Tensor) -> Tensor:
    """[scale; shift] -> [shift; scale], and back."""
    return torch.cat(rows.chunk(2)[::-1])
