"""MultiDiffusion (Bar-Tal et al. 2023): a network evaluates a large picture in tiles, averaged at every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from backend.diffusion.guidance import ConditionedNetwork, Conditioning
from backend.tile_boxes import Box, fades, spans

# Shapes: G groups of B images each with a conditioning in common, K tiles of a call, C channels, H x W latent size,
# h x w size of a tile.


def tiled_network(
    network: ConditionedNetwork, size: int, overlap: int, *, tiles_per_call: int = 1
) -> ConditionedNetwork:
    """A network that sees no more than `size` x `size` latent pixels at a time.

    Every tile is given the same text and, where there is one, its part of `Conditioning.image`. Where tiles overlap, by
    `overlap` or more, one prediction fades into the next. A picture that is not larger than a tile goes through as it
    is. Predictions are averaged, which is the same as averaging x0: each kind of prediction is linear in it.
    Raises ValueError unless 0 <= overlap < size.
    """
    grids: dict[tuple[int, int], _Grid] = {}
    spans(size, size, overlap)  # refuses sizes that make no sense now and not in the middle of a job

    def evaluate(x: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        height, width = x.shape[-2:]
        if height <= size and width <= size:
            return network(x, timesteps, conditioning)
        if (height, width) not in grids:
            grids[height, width] = _Grid(height, width, size, overlap, tiles_per_call, x.device)
        return grids[height, width].averaged(network, x, timesteps, conditioning)

    return evaluate


class _Grid:
    """The tiles of pictures of one size, and what they are told.

    calls: the tiles of each call of the network, and how much they count, [h, w] each; 1 in all at every place.
    """

    def __init__(
        self, height: int, width: int, size: int, overlap: int, tiles_per_call: int, device: torch.device
    ) -> None:
        def along(length: int) -> list[tuple[range, Tensor]]:
            stretches = spans(length, size, overlap)
            weights = [torch.tensor(fade, dtype=torch.float32, device=device) for fade in fades(stretches)]
            return list(zip(stretches, weights, strict=True))

        tiles = [
            (
                Box(left=columns.start, top=rows.start, width=len(columns), height=len(rows)),
                down[:, None] * across[None, :],
            )
            for rows, down in along(height)
            for columns, across in along(width)
        ]
        num_calls = -(-len(tiles) // tiles_per_call)
        bounds = [round(call * len(tiles) / num_calls) for call in range(num_calls + 1)]  # of nearly one size
        self._calls = [tiles[start:end] for start, end in pairwise(bounds)]
        self._texts: dict[tuple[Conditioning, int], Conditioning] = {}
        self._told: dict[tuple[Conditioning, int], Conditioning] = {}

    def averaged(self, network: ConditionedNetwork, x: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        groups = conditioning.groups
        images = x.unflatten(0, (groups, -1))  # [G, B, C, H, W]
        times = timesteps.view(groups, 1, -1)
        result = torch.zeros_like(x, dtype=torch.float32)
        for number, call in enumerate(self._calls):
            predicted = network(
                _cut(images, [box for box, _ in call]).flatten(0, 2),
                times.expand(-1, len(call), -1).flatten(),
                self._conditioning(conditioning, number),
            ).float()
            parts = predicted.unflatten(0, (groups, len(call), -1)).unbind(1)  # K times [G, B, C, h, w]
            for (box, weight), part in zip(call, parts, strict=True):
                result[..., box.rows, box.columns] += part.flatten(0, 1) * weight
        return result

    def _conditioning(self, conditioning: Conditioning, number: int) -> Conditioning:
        """For the tiles of call `number`; always the same object for the same one, see `Conditioning`."""
        if conditioning.image is None:
            return conditioning  # serves any number of images
        if (conditioning, number) not in self._told:
            boxes = [box for box, _ in self._calls[number]]
            if (conditioning, len(boxes)) not in self._texts:
                self._texts[conditioning, len(boxes)] = _for_tiles(conditioning, len(boxes))
            self._told[conditioning, number] = dataclasses.replace(
                self._texts[conditioning, len(boxes)], image=_cut(conditioning.image[:, None], boxes).flatten(0, 2)
            )
        return self._told[conditioning, number]


def _cut(images: Tensor, boxes: Sequence[Box]) -> Tensor:
    """[G, K, B, C, h, w] of images [G, B, C, H, W]."""
    return torch.stack([images[..., box.rows, box.columns] for box in boxes], dim=1)


def _for_tiles(conditioning: Conditioning, tiles: int) -> Conditioning:
    """Each group `tiles` times, because each tile has an image of its own; the image itself stays as it is."""

    def repeated(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.repeat_interleave(tiles, dim=0)

    if tiles == 1:
        return conditioning
    return dataclasses.replace(
        conditioning,
        context=conditioning.context.repeat_interleave(tiles, dim=0),
        vector=repeated(conditioning.vector),
        mask=repeated(conditioning.mask),
    )
