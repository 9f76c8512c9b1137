"""Pictures that are made in tiles, each for itself, and put together with soft borders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from backend.tile_boxes import Box, fades, tile_boxes

__all__ = ["Box", "blended", "tile_boxes"]

Pixels = npt.NDArray[np.uint8]


def blended(tiles: Sequence[tuple[Box, Pixels]], width: int, height: int) -> Pixels:
    """The picture [height, width, channels] of `tile_boxes`: where they overlap one turns into the next in a straight
    line, so that tiles that agree give what they agree on, to the bit.

    Raises ValueError for tiles of another size than their boxes, and for boxes that do not cover the picture.
    """
    columns = _weights([(box.left, box.width) for box, _ in tiles])
    rows = _weights([(box.top, box.height) for box, _ in tiles])
    total = np.zeros((height, width, 1))
    picture = np.zeros((height, width, tiles[0][1].shape[-1]))
    for box, pixels in tiles:
        if pixels.shape[:2] != (box.height, box.width):
            raise ValueError(f"a tile of {pixels.shape[1]} x {pixels.shape[0]} is not as large as its {box}")
        weight = (rows[box.top, box.height][:, None] * columns[box.left, box.width])[:, :, None]
        picture[box.rows, box.columns] += pixels * weight
        total[box.rows, box.columns] += weight
    if not bool((total > 0).all()):
        raise ValueError(f"the tiles do not cover {width} x {height} pixels")
    return np.rint(picture / total).astype(np.uint8)


def _weights(places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], npt.NDArray[np.float64]]:
    """By start and length of the tiles along a side."""
    known = sorted(set(places))
    stretches = [range(start, start + length) for start, length in known]
    return {place: np.array(fade) for place, fade in zip(known, fades(stretches), strict=True)}
