"""The noise of a part of a picture: cut out of the whole's, so that parts do not repeat each other."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from backend.diffusion.noise import NoiseSource


@dataclass(frozen=True, kw_only=True)
class CutNoise:
    """A `NoiseSource` for `height` x `width` latent pixels of a larger one, from `top` and `left` on."""

    whole: NoiseSource
    left: int
    top: int
    width: int
    height: int

    def __call__(self) -> Tensor:
        return self._cut(self.whole())

    def between(self, sigma: float, sigma_next: float) -> Tensor:
        return self._cut(self.whole.between(sigma, sigma_next))

    def _cut(self, noise: Tensor) -> Tensor:
        return noise[..., self.top : self.top + self.height, self.left : self.left + self.width].contiguous()
