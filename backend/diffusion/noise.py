"""Seeded noise, one generator per image: image k of a batch gets the noise of the image made alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from backend.diffusion.brownian import BrownianPath
from backend.diffusion.philox import normals


class NoiseSource(Protocol):
    """What a sampler draws from."""

    def __call__(self) -> Tensor:
        """Fresh standard normals of x's shape."""
        ...

    def between(self, sigma: float, sigma_next: float) -> Tensor:
        """The increment of a fixed Brownian path over an interval of noise levels, scaled to unit variance."""
        ...


class NoiseGenerator(Protocol):
    """The random numbers of one image; every draw is new."""

    def normal(self, shape: Sequence[int]) -> Tensor: ...


class PhiloxGenerator:
    """The numbers that CUDA's generator draws for a seed, on any device."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._draws = 0

    def normal(self, shape: Sequence[int]) -> Tensor:
        drawn = normals(self._seed, self._draws, math.prod(shape)).view(*shape)
        self._draws += 1
        return drawn


class CpuGenerator:
    """PyTorch's generator for the CPU."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self._generator, dtype=torch.float32)


@dataclass(frozen=True, kw_only=True)
class NoiseKind:
    """A registered way to turn a seed into random numbers."""

    name: str
    label: str
    aliases: tuple[str, ...] = ()
    generator: Callable[[int], NoiseGenerator]


NV = NoiseKind(name="nv", label="NV", aliases=("philox",), generator=PhiloxGenerator)
CPU = NoiseKind(name="cpu", label="CPU", generator=CpuGenerator)

BUILTIN = (NV, CPU)


class BatchNoise:
    """The noise of a batch, a `NoiseSource`. Tensors are [len(seeds), *shape] float32 on `device`.

    The numbers are made on the CPU whatever the device, so that they are the same everywhere. Brownian paths come
    from Philox with every kind of source.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Sequence[int],
        source: NoiseKind = NV,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self._shape = tuple(shape)
        self._device = torch.device(device)
        self._generators = [source.generator(seed) for seed in seeds]
        self._paths = [BrownianPath(seed, shape) for seed in seeds]

    def __call__(self) -> Tensor:
        return torch.stack([generator.normal(self._shape) for generator in self._generators]).to(self._device)

    def between(self, sigma: float, sigma_next: float) -> Tensor:
        return torch.stack([path.normalised(sigma, sigma_next) for path in self._paths]).to(self._device)
