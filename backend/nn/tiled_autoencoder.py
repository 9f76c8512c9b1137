"""Encoding and decoding a picture in tiles that show no borders, for pictures whose feature maps are too large.

What the autoencoder does at the size of the latents is done for the whole picture: the attention, and half of the
convolutions, at a fraction of the memory. The rest looks at a neighbourhood only, but for its group norms. So tiles
reach as far over their borders as it looks, and all tiles are normalised alike, by statistics of the whole picture.

These are found beforehand: small blocks from all over the picture make one mosaic as large as a tile, which is
normalised by its joint statistics, and so goes through the network about as the picture would; there are as many
mosaics as show every place once. Statistics of tiles would not do: a tile of nothing but sky is no sample.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from backend.nn.autoencoder import Autoencoder, AutoencoderConfig, Normalise
from backend.nn.layers import GroupNorm, Moments
from backend.tile_boxes import Box, spans

# Shapes: C channels, H x W image size, h x w latent size, K blocks of a mosaic, G groups of a norm.

# Of a block, in latent pixels. Its border is wrong, because the network sees nothing behind it; what counts is inside.
_BLOCK, _BORDER = 16, 2
_GOLDEN = (math.sqrt(5) - 1) / 2

_Fine: TypeAlias = Callable[[Tensor, Normalise], Tensor]


def decode_tiled(autoencoder: Autoencoder, latents: Tensor, tile: int) -> Tensor:
    """The images [B, 3, H, W] in float32 of latents [B, Z, h, w], in tiles of at most `tile` x `tile` latent pixels.

    Raises ValueError for tiles that are smaller than what is seen over their borders.
    """
    return torch.cat([_decoding(autoencoder, tile).whole(_decode_coarse(autoencoder, one)) for one in latents.split(1)])


def encode_tiled(autoencoder: Autoencoder, images: Tensor, tile: int) -> Tensor:
    """The means [B, Z, h, w] of the latents of images [B, 3, H, W], whose sides are multiples of the downscale.

    In tiles of at most `tile` x `tile` latent pixels. Raises ValueError as `decode_tiled`.
    """
    encoding = _encoding(autoencoder, tile)
    features = torch.cat([encoding.whole(image) for image in images.split(1)])
    return torch.cat([_encode_coarse(autoencoder, one.to(images.dtype)) for one in features.split(1)])


def decode_first_tile(autoencoder: Autoencoder, latents: Tensor, tile: int) -> Tensor:
    """All that `decode_tiled` has in memory at a time, for latents [1, Z, h, w]."""
    return _decoding(autoencoder, tile).first(_decode_coarse(autoencoder, latents))


def encode_first_tile(autoencoder: Autoencoder, image: Tensor, tile: int) -> Tensor:
    """All that `encode_tiled` has in memory at a time, for an image [1, 3, H, W]."""
    return _encode_coarse(autoencoder, _encoding(autoencoder, tile).first(image).to(image.dtype))


def decoding_reach(config: AutoencoderConfig) -> int:
    """How far over its border, in latent pixels, a tile of a picture is seen when it is decoded."""
    pixels = 1  # the last convolution
    for _level in config.channel_mult[1:]:
        pixels += 2 * (config.num_res_blocks + 1) + 1  # convolutions at this resolution, with that after enlarging
        pixels = -(-pixels // 2)
    return pixels


def encoding_reach(config: AutoencoderConfig) -> int:
    pixels = 0
    for _level in config.channel_mult[1:]:
        pixels = 2 * pixels + 2 + 2 * config.num_res_blocks  # a convolution in steps of two, and those before it
    return -(-(pixels + 1) // config.downscale)


def _decode_coarse(autoencoder: Autoencoder, latents: Tensor) -> Tensor:
    return autoencoder.decoder.coarse(
        autoencoder.post_quant_conv(latents) if autoencoder.config.has_quant_conv else latents
    )


def _encode_coarse(autoencoder: Autoencoder, features: Tensor) -> Tensor:
    moments = autoencoder.encoder.coarse(features)
    if autoencoder.config.has_quant_conv:
        moments = autoencoder.quant_conv(moments)
    return moments.chunk(2, dim=1)[0]


def _decoding(autoencoder: Autoencoder, tile: int) -> _Tiled:
    config = autoencoder.config
    return _Tiled(
        fine=autoencoder.decoder.fine, tile=tile, reach=decoding_reach(config), unit_in=1, unit_out=config.downscale
    )


def _encoding(autoencoder: Autoencoder, tile: int) -> _Tiled:
    config = autoencoder.config
    return _Tiled(
        fine=autoencoder.encoder.fine, tile=tile, reach=encoding_reach(config), unit_in=config.downscale, unit_out=1
    )


@dataclass(frozen=True, kw_only=True)
class _Tiled:
    """A part of the network that is run in tiles. tile, reach: in latent pixels.

    unit_in, unit_out: pixels of what goes in, and of what comes out, along the side of a latent pixel.
    """

    fine: _Fine
    tile: int
    reach: int
    unit_in: int
    unit_out: int

    def whole(self, x: Tensor) -> Tensor:
        """[1, C, ...] in float32 of x [1, C, ...]."""
        height, width = (side // self.unit_in for side in x.shape[-2:])
        tiles = self._tiles(height, width)
        statistics = _Statistics()
        for blocks in self._mosaics(height, width):
            self._look_at(x, blocks, statistics)
        normalise = statistics.found()
        out: Tensor | None = None
        for seen, kept in tiles:
            made = self.fine(self._cut(x, seen), normalise).float()
            if out is None:
                out = self._room(made, height, width)
            self._keep(out, made, seen, kept)
        assert out is not None  # there is always a tile
        return out

    def first(self, x: Tensor) -> Tensor:
        """The room for the whole, after one mosaic and one tile."""
        height, width = (side // self.unit_in for side in x.shape[-2:])
        statistics = _Statistics()
        self._look_at(x, self._mosaics(height, width)[0], statistics)
        seen, kept = self._tiles(height, width)[0]
        made = self.fine(self._cut(x, seen), statistics.found()).float()
        out = self._room(made, height, width)
        self._keep(out, made, seen, kept)
        return out

    def _tiles(self, height: int, width: int) -> list[tuple[Box, Box]]:
        """What is seen for each, and what of the picture is then made; in latent pixels."""
        return [
            (_box(seen_rows, seen_columns), _box(rows, columns))
            for seen_rows, rows in self._along(height)
            for seen_columns, columns in self._along(width)
        ]

    def _along(self, length: int) -> list[tuple[range, range]]:
        seen = spans(length, self.tile, 2 * self.reach)
        cuts = [0, *((one.stop + other.start) // 2 for one, other in pairwise(seen)), length]
        return [(one, range(start, stop)) for one, (start, stop) in zip(seen, pairwise(cuts), strict=True)]

    def _mosaics(self, height: int, width: int) -> list[list[tuple[Box, Box]]]:
        """Blocks, and what of each counts; every place of the picture counts once."""
        blocks = [
            (_box(rows, columns), _box(counting_rows, counting_columns))
            for rows, counting_rows in _blocks_along(height)
            for columns, counting_columns in _blocks_along(width)
        ]
        # Neighbours in this order are far apart from each other in the picture.
        scattered = sorted(range(len(blocks)), key=lambda index: index * _GOLDEN % 1)
        size = blocks[0][0].width * blocks[0][0].height
        num_mosaics = -(-len(blocks) // max(1, self.tile**2 // size))
        return [[blocks[index] for index in scattered[number::num_mosaics]] for number in range(num_mosaics)]

    def _look_at(self, x: Tensor, blocks: Sequence[tuple[Box, Box]], statistics: _Statistics) -> None:
        mosaic = torch.cat([self._cut(x, block) for block, _ in blocks])
        counting = [
            Box(left=inner.left - box.left, top=inner.top - box.top, width=inner.width, height=inner.height)
            for box, inner in blocks
        ]
        self.fine(mosaic, statistics.of_mosaic(counting, blocks[0][0].width))

    def _cut(self, x: Tensor, box: Box) -> Tensor:
        unit = self.unit_in
        return x[
            ...,
            box.top * unit : (box.top + box.height) * unit,
            box.left * unit : (box.left + box.width) * unit,
        ]

    def _room(self, made: Tensor, height: int, width: int) -> Tensor:
        return made.new_zeros(1, made.shape[1], height * self.unit_out, width * self.unit_out)

    def _keep(self, out: Tensor, made: Tensor, seen: Box, kept: Box) -> None:
        unit, top, left = self.unit_out, kept.top - seen.top, kept.left - seen.left
        out[
            ...,
            kept.top * unit : (kept.top + kept.height) * unit,
            kept.left * unit : (kept.left + kept.width) * unit,
        ] = made[..., top * unit : (top + kept.height) * unit, left * unit : (left + kept.width) * unit]


class _Statistics:
    """Means and variances of the groups of every norm, over all mosaics that were seen."""

    def __init__(self) -> None:
        self._found: dict[GroupNorm, list[tuple[int, Moments]]] = defaultdict(list)

    def of_mosaic(self, counting: Sequence[Box], width: int) -> Normalise:
        """Norms of blocks [K, C, h, w] that are `width` latent pixels wide, by what counts of them together."""

        def normalise(norm: GroupNorm, x: Tensor) -> Tensor:
            scale = x.shape[-1] / width
            parts = [_part_moments(block, box, scale, norm.num_groups) for block, box in zip(x, counting, strict=True)]
            joint = _joint(parts)
            self._found[norm].append((sum(count for count, _ in parts), joint))
            return norm(x, joint)

        return normalise

    def found(self) -> Normalise:
        """Norms by the statistics of all mosaics."""
        joint = {norm: _joint(parts) for norm, parts in self._found.items()}
        return lambda norm, x: norm(x, joint[norm])


def _part_moments(block: Tensor, box: Box, scale: float, groups: int) -> tuple[int, Moments]:
    """Of a part of a block [C, h, w], with how many pixels it has."""
    top, left = round(box.top * scale), round(box.left * scale)
    part = block[:, top : top + round(box.height * scale), left : left + round(box.width * scale)]
    variance, mean = torch.var_mean(part.float().reshape(groups, -1), dim=1, correction=0)
    return part[0].numel(), Moments(mean, variance)


def _joint(parts: Sequence[tuple[int, Moments]]) -> Moments:
    total = sum(count for count, _ in parts)
    shares = torch.tensor([count / total for count, _ in parts], device=parts[0][1].mean.device)[:, None]
    means = torch.stack([moments.mean for _, moments in parts])
    mean = (shares * means).sum(0)
    within = torch.stack([moments.variance for _, moments in parts])
    return Moments(mean, (shares * (within + (means - mean).square())).sum(0))


def _blocks_along(length: int) -> list[tuple[range, range]]:
    """Blocks of one length, and what of each counts: all of it but borders inside of the picture."""
    blocks = spans(length, _BLOCK, 2 * _BORDER)
    cuts = [0, *((one.stop + other.start) // 2 for one, other in pairwise(blocks)), length]
    return [(block, range(start, stop)) for block, (start, stop) in zip(blocks, pairwise(cuts), strict=True)]


def _box(rows: range, columns: range) -> Box:
    return Box(left=columns.start, top=rows.start, width=len(columns), height=len(rows))
