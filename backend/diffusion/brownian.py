"""A Brownian path per image, for samplers of stochastic differential equations.

An SDE sampler needs the increments of one fixed path: the same interval must give the same increment, and the
increments of neighbouring intervals must add up to that of their union, so that more steps refine a picture instead of
replacing it. The path is Levy's construction on [0, 1]: a straight line to a random end point plus, on every level of
halving, a tent of random height on every cell. Each height is a pure function of seed and cell (Philox), so nothing is
stored and queries may come in any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backend.diffusion.philox import normals_of_nodes

LEVELS = 20  # cells of 2**-20: far finer than a thousand steps need


class BrownianPath:
    """Standard Brownian motion of an image's shape over the noise levels 0 to infinity.

    Its time is sigma / (1 + sigma), so that it need not know a model's largest sigma. Levels that fall into the same
    one of 2**20 cells count as equal.
    """

    def __init__(self, seed: int, shape: Sequence[int]) -> None:
        self._seed = seed
        self._shape = tuple(shape)
        self._last = (0, torch.zeros(math.prod(shape), dtype=torch.float64))  # the next interval mostly starts here

    def increment(self, sigma: float, sigma_next: float) -> Tensor:
        """W(sigma_next) - W(sigma), float64."""
        start = self._at(_cell(sigma))
        return (self._at(_cell(sigma_next)) - start).view(self._shape)

    def normalised(self, sigma: float, sigma_next: float) -> Tensor:
        """The increment divided by its standard deviation, float32; zeros for an empty interval."""
        length = abs(_cell(sigma_next) - _cell(sigma)) / 2**LEVELS
        increment = self.increment(sigma, sigma_next)
        return (increment / math.sqrt(length) if length else increment).float()

    def _at(self, cell: int) -> Tensor:
        if cell != self._last[0]:
            nodes, heights = _tents(cell / 2**LEVELS)
            normals = normals_of_nodes(self._seed, torch.tensor(nodes), math.prod(self._shape))
            # summed row by row: a matrix product may round differently from one machine to the next
            self._last = (cell, (normals * torch.tensor(heights, dtype=torch.float64)[:, None]).sum(dim=0))
        return self._last[1]


def _cell(sigma: float) -> int:
    return round(sigma / (1 + sigma) * 2**LEVELS)


def _tents(time: float) -> tuple[list[int], list[float]]:
    """Node numbers and heights, at `time` in 0..1, of the line and of all tents that do not vanish there.

    Node 0 is the line; cell i of level l is node 2**l + i. The peak of a tent on a cell of width w is sqrt(w) / 2.
    """
    nodes, heights = [0], [time]
    for level in range(LEVELS):
        cell = int(time * 2**level)
        within = time * 2**level - cell
        if within > 0:
            nodes.append(2**level + cell)
            heights.append(2 ** (-level / 2) / 2 * (1 - abs(2 * within - 1)))
    return nodes, heights
