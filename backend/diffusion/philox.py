"""Philox4x32-10, the counter-based random number generator of Salmon et al. 2011, on torch tensors.

Being a pure function of key and counter it gives the same numbers on every device and in any order.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

Words: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_TWO_POW_MINUS_32 = 2.0**-32
_TWO_PI = 6.2831854820251465  # 2 pi in float32, as CUDA's generator has it


def words(*values: Tensor | int) -> Words:
    """Four counter words as int64 tensors that broadcast against one another."""
    first, second, third, fourth = (torch.as_tensor(value, dtype=torch.int64) for value in values)
    return first, second, third, fourth


def philox(seed: int, counter: Words) -> Words:
    """Ten rounds over the counter. The words are int64 tensors that hold unsigned 32-bit numbers.

    seed: its low 64 bits are the key, so that negative seeds are keys as well.
    """
    key0, key1 = seed & _MASK, (seed >> 32) & _MASK
    c0, c1, c2, c3 = counter
    for _ in range(_ROUNDS):
        # 32 x 32 bits overflow int64 only in its sign, which the mask after the arithmetic shift removes
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _MASK) ^ c1 ^ key0,
            product1 & _MASK,
            ((product0 >> 32) & _MASK) ^ c3 ^ key1,
            product0 & _MASK,
        )
        key0, key1 = (key0 + _WEYL[0]) & _MASK, (key1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def box_muller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normals (float64) from two words of 32 random bits: the sine and the cosine branch."""
    u = first.double() * _TWO_POW_MINUS_32 + _TWO_POW_MINUS_32 / 2
    angle = second.double() * (_TWO_PI * _TWO_POW_MINUS_32) + _TWO_PI * _TWO_POW_MINUS_32 / 2
    radius = torch.sqrt(-2 * torch.log(u))
    return radius * torch.sin(angle), radius * torch.cos(angle)


def normals(seed: int, draw: int, count: int) -> Tensor:
    """`count` standard normals as CUDA's `randn` makes them: float32, the sine branch only.

    draw: how many draws were made with this seed before.
    """
    g0, g1, _, _ = philox(seed, words(draw, 0, torch.arange(count), 0))
    return box_muller(g0, g1)[0].float()


def normals_of_nodes(seed: int, nodes: Tensor, count: int) -> Tensor:
    """One row of `count` standard normals (float64) for each node number: [len(nodes), count].

    The fourth counter word keeps this stream apart from `normals` of the same seed.
    """
    blocks = math.ceil(count / 4)
    g0, g1, g2, g3 = philox(seed, words(nodes[:, None], 0, torch.arange(blocks)[None, :], 1))
    return torch.cat([*box_muller(g0, g1), *box_muller(g2, g3)], dim=1)[:, :count]
