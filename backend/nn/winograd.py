"""Convolutions with 3 x 3 kernels by Winograd's minimal filtering, with a quarter of the multiplications.

Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308): F(4 x 4, 3 x 3). A tile of
6 x 6 pixels, a kernel, and 4 x 4 results are polynomials; in the values that those have at 6 x 6 points, a convolution
is one product a point. The points here are 0, +-sqrt(1/2), +-sqrt(2) and infinity, with which results of 320 channels
differ by 1.7e-6 from exact ones; with the usual 0, +-1, +-2 it is 3.6e-6, and for a direct convolution 0.23e-6.

Each way between pixels and points is one small matrix product a tile, whose matrix is the Kronecker square of that of
one axis. On a CPU such products run at full speed, while sums of slices wait for the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

# Shapes: B batch, C input channels, O output channels, H x W size, P = 36 points, T tiles, of which a row of tiles has
# `across`. A tile's pixels and points are numbered column by column.

_STEP = 4  # results of a tile, along a side
_SIDE = _STEP + 2  # pixels and points of a tile, along a side
_POINTS = _SIDE**2
_ROOTS = (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2), -math.sqrt(2))

# The C library keeps what is given back only while it is little (64 MiB in all): then memory need not be touched anew.
_TILE_BYTES = 12 * 2**20  # of tiles at points, and of their products, at a time
_KERNEL_BYTES = 10 * 2**20  # of kernels at points, at a time
_KEPT_KERNEL_BYTES = 44 * 2**20  # of kernels that are kept for all tiles; more are computed anew for each piece of them
_MIN_OUTPUTS = 64  # the kernels of the products compute blocks of 16 to 64

_FEWEST_CHANNELS = 128
_FEWEST_TILES = 16


def pays(batch: int, in_channels: int, out_channels: int, height: int, width: int) -> bool:
    """Whether a float32 convolution of these shapes is faster this way on a CPU, as measured.

    For each pair of channels it takes 36 multiplications a tile, where a direct one takes 9 a pixel. What the ways to
    points and back take must be shared: that of the kernels by many tiles, those of the tiles by many channels. It
    depends on nothing but shapes, so that a picture can be made again.
    """
    tiles = batch * _tiles(height) * _tiles(width)
    is_mostly_filled = batch * height * width >= tiles * _STEP**2 // 2
    return min(in_channels, out_channels) >= _FEWEST_CHANNELS and tiles >= _FEWEST_TILES and is_mostly_filled


def convolve(x: Tensor, kernels: Callable[[slice], Tensor], out_channels: int, bias: Tensor | None) -> Tensor:
    """x [B, C, H, W] with kernels of 3 x 3, stride 1 and a border of one zero: [B, out_channels, H, W], channels-last.

    kernels: gives those [R, C, 3, 3] of R outputs. All in float32, on a CPU. Beside the result it takes about 64 MiB,
    more where a row of tiles alone is larger.
    """
    image = x.permute(0, 2, 3, 1)  # [B, H, W, C]
    plan = _Plan.of(image, out_channels)
    if isinstance(x, FakeTensor):
        return _without_contents(x, plan)
    batch, height, width, channels = image.shape
    result = x.new_empty(batch, height, width, out_channels)
    rows = [(image[k], result[k], _STEP * row) for k in range(batch) for row in range(_tiles(height))]
    reader, writer = _Reader.like(image), _Writer.like(x, width, bias)
    room = x.new_empty(plan.rows * plan.across, _POINTS, channels)
    to_points = x.new_tensor(_KERNEL_TO_POINTS)
    kept = [_at_points(to_points, kernels(piece)) for piece in plan.pieces] if plan.keeps_kernels else None
    for first in range(0, len(rows), plan.rows):
        group = rows[first : first + plan.rows]
        tiles = room[: len(group) * plan.across]
        for (source, _, top), at_points in zip(group, tiles.split(plan.across), strict=True):
            reader.read(source, top, at_points)
        at_points = kept or (_at_points(to_points, kernels(piece)) for piece in plan.pieces)
        for piece, kernel in zip(plan.pieces, at_points, strict=True):
            products = torch.bmm(tiles.transpose(0, 1), kernel)  # [P, T, R]
            for (_, out, top), product in zip(group, products.split(plan.across, dim=1), strict=True):
                writer.write(product, out, top, piece)
    return result.permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How the work is divided. rows: of tiles at a time, each with `across`. pieces: groups of outputs."""

    channels: int
    out_channels: int
    across: int
    rows: int
    pieces: list[slice]
    keeps_kernels: bool

    @classmethod
    def of(cls, image: Tensor, out_channels: int) -> _Plan:
        batch, height, width, channels = image.shape
        pieces = _pieces(out_channels, channels)
        row_bytes = image.itemsize * _POINTS * _tiles(width) * max(channels, pieces[0].stop)
        return cls(
            channels=channels,
            out_channels=out_channels,
            across=_tiles(width),
            rows=_even_step(batch * _tiles(height), _TILE_BYTES // row_bytes),
            pieces=pieces,
            keeps_kernels=image.itemsize * _POINTS * channels * out_channels <= _KEPT_KERNEL_BYTES,
        )

    def scratch(self) -> tuple[int, ...]:
        """Numbers in what lives beside the result: tiles, products, kernels at points and as they are, one row."""
        tiles, outputs = self.rows * self.across, self.pieces[0].stop
        kernels = self.channels * (self.out_channels if self.keeps_kernels else outputs)
        return (
            tiles * _POINTS * self.channels,
            tiles * _POINTS * outputs,
            kernels * _POINTS,
            self.channels * outputs * 9,
            self.across * _STEP * _SIDE * self.channels,
        )


def _without_contents(x: Tensor, plan: _Plan) -> Tensor:
    """What a dry run sees: the memory that is taken, and the arithmetic of a direct convolution, step by step of which
    would take as long as computing.
    """
    F.conv2d(x, x.new_empty(1).expand(plan.out_channels, plan.channels, 3, 3), padding=1)
    _taken = [x.new_empty(count) for count in plan.scratch()]
    batch, _, height, width = x.shape
    return x.new_empty(batch, height, width, plan.out_channels).permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Brings rows of tiles to points. strip: their pixels [4 across + 2, 6, C], by columns; what is outside is zero."""

    to_points: Tensor
    strip: Tensor

    @classmethod
    def like(cls, image: Tensor) -> _Reader:
        across, channels = _tiles(image.shape[2]), image.shape[-1]
        strip = image.new_zeros(_STEP * across + 2, _SIDE, channels)
        to_points = image.new_tensor(_PIXELS_TO_POINTS).expand(across, _POINTS, _POINTS)
        return cls(to_points=to_points, strip=strip)

    def read(self, image: Tensor, top: int, out: Tensor) -> None:
        """The row whose results start at row `top` of an image [H, W, C], as tiles at points [across, P, C]."""
        height, width, channels = image.shape
        start, stop = max(top - 1, 0), min(top - 1 + _SIDE, height)
        above, filled = start - (top - 1), stop - (top - 1)
        self.strip[:, :above] = 0
        self.strip[:, filled:] = 0
        self.strip[1 : width + 1, above:filled] = image[start:stop].transpose(0, 1)
        tiles = self.strip.as_strided(
            out.shape, (_STEP * _SIDE * channels, channels, 1)
        )  # neighbours share two columns
        torch.bmm(self.to_points, tiles, out=out)


@dataclass(frozen=True, kw_only=True)
class _Writer:
    """Brings rows of tiles from points to results. width: that of the image."""

    to_results: Tensor
    width: int
    bias: Tensor | None

    @classmethod
    def like(cls, x: Tensor, width: int, bias: Tensor | None) -> _Writer:
        to_results = x.new_tensor(_POINTS_TO_RESULTS).expand(_tiles(width), _STEP**2, _POINTS)
        return cls(to_results=to_results, width=width, bias=bias)

    def write(self, products: Tensor, out: Tensor, top: int, piece: slice) -> None:
        """Products [P, across, R] into the outputs `piece` of an image [H, W, O] from row `top` on."""
        across, outputs = products.shape[1:]
        results = torch.bmm(self.to_results, products.transpose(0, 1))  # [across, 16, R], row by row
        rows = results.view(across, _STEP, _STEP, outputs).transpose(0, 1)  # [4, across, 4, R]
        place = out[top : top + _STEP, :, piece]
        if self.width % _STEP == 0:
            place, rows = place.unflatten(1, (across, _STEP)), rows[: len(place)]
        else:
            rows = rows[: len(place)].flatten(1, 2)[:, : self.width]
        if self.bias is None:
            place.copy_(rows)
        else:
            torch.add(rows, self.bias[piece], out=place)


def _at_points(to_points: Tensor, kernels: Tensor) -> Tensor:
    """Kernels [R, C, 3, 3] as [P, C, R]."""
    outputs, channels = kernels.shape[:2]
    return torch.mm(to_points, kernels.reshape(-1, 9).t()).view(_POINTS, outputs, channels).transpose(1, 2)


def _pieces(out_channels: int, channels: int) -> list[slice]:
    """Groups of outputs whose kernels at points fill one piece."""
    step = max(_MIN_OUTPUTS, _KERNEL_BYTES // (4 * _POINTS * channels) // _MIN_OUTPUTS * _MIN_OUTPUTS)
    return [slice(start, min(start + step, out_channels)) for start in range(0, out_channels, step)]


def _even_step(count: int, most: int) -> int:
    """A step of at most `most`, but at least 1, that goes through `count` in steps of about one size."""
    return -(-count // -(-count // max(most, 1)))


def _tiles(length: int) -> int:
    return -(-length // _STEP)


Matrix = list[list[float]]


def _polynomial(roots: list[float]) -> list[float]:
    """Coefficients of a polynomial with these roots, that of the highest power, which is 1, last."""
    coefficients = [1.0]
    for root in roots:
        shifted, scaled = [0.0, *coefficients], [*(root * c for c in coefficients), 0.0]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def _axis_matrices() -> tuple[Matrix, Matrix, Matrix]:
    """Of one axis: pixels to points [6, 6], kernel to points [6, 3], points to results [4, 6] (B, G and A transposed
    in the paper)."""
    others = [[other for other in _ROOTS if other != root] for root in _ROOTS]
    pixels = [[*_polynomial(rest), 0.0] for rest in others] + [_polynomial(list(_ROOTS))]
    scales = [math.prod(root - other for other in rest) for root, rest in zip(_ROOTS, others, strict=True)]
    kernel = [[root**k / scale for k in range(3)] for root, scale in zip(_ROOTS, scales, strict=True)]
    results = [[*(root**k for root in _ROOTS), float(k == _STEP - 1)] for k in range(_STEP)]
    return pixels, [*kernel, [0.0, 0.0, 1.0]], results


def _squared(matrix: Matrix) -> Matrix:
    """The Kronecker square: the same along both axes."""
    return [[a * b for a in first for b in second] for first in matrix for second in matrix]


def _with_columns_first(matrix: Matrix, side: int) -> Matrix:
    """Square grids of `side` numbered column by column instead of row by row, in the rows of a matrix."""
    return [[row[side * (k % side) + k // side] for k in range(side**2)] for row in matrix]


def _transposed(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


_PIXELS, _KERNEL, _RESULTS = _axis_matrices()
_PIXELS_TO_POINTS = _squared(_PIXELS)  # [36, 36]
_KERNEL_TO_POINTS = _with_columns_first(_squared(_KERNEL), 3)  # [36, 9]; kernels come row by row
_POINTS_TO_RESULTS = _transposed(_with_columns_first(_transposed(_squared(_RESULTS)), _STEP))  # results go row by row
