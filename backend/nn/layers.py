"""PyTorch's layers, for weights that may be stored in a narrower type than the one that is computed with.

A float32 network can so run straight from a float16 file: its weights stay where the file is mapped, take no memory,
and are widened when they are used, which is exact. Whoever binds the weights decides. With weights of the computed type
the layers do what PyTorch's do.

The weights of linear layers, convolutions and embeddings may also be packed: rows of bytes, and a function that makes
numbers of them (see `Packed`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn import winograd
from backend.nn.low_rank import LowRank, add_products, add_to_image, narrowed

# For larger tensors the C library asks the system for new pages each time (above 32 MiB always), and touching those for
# the first time takes longer than the arithmetic. Much smaller ones make many short products, which are slower again.
_PIECE_BYTES = 20 * 2**20
_FEW_PIXELS = 128 * 128
_MIN_PIECE = 64  # rows or outputs; the kernels compute blocks of 16 to 64
_UNPACKED_AT_ONCE = 2**24  # numbers, on other devices than a CPU; unpacking takes several times their memory


class Packed:
    """A layer whose `weight` may be held as rows of bytes: one row [row_bytes] of uint8 for each output or token.

    unpack_weight: makes numbers [R, ...] of a type, the second argument, from rows [R, row_bytes], the first, on their
    device; None for a weight that is held as numbers.
    """

    unpack_weight: Callable[[Tensor, torch.dtype], Tensor] | None = None


class Adapted:
    """A layer to whose `weight` products may be added that lie beside it. low_rank: None for nothing."""

    low_rank: LowRank | None = None


class Linear(Packed, Adapted, nn.Linear):
    """Computes a part of its outputs at a time where large weights are widened or unpacked."""

    def forward(self, input: Tensor) -> Tensor:
        return outputs_of(self, input, [range(self.out_features)])[0]


class SplitLinear(Linear):
    """A linear layer of which the outputs are wanted apart: a tuple of one [..., width] for each of `widths`.

    On a CPU each is a product of its own, so that what follows finds them without gaps, and of a size for which the C
    library still has memory.
    """

    def __init__(self, in_features: int, widths: Sequence[int]) -> None:
        super().__init__(in_features, sum(widths))
        self.widths = tuple(widths)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - several tensors in place of one
        self, input: Tensor
    ) -> tuple[Tensor, ...]:
        if not _in_pieces(input):
            return super().forward(input).split(self.widths, dim=-1)
        widths = zip(self.widths, accumulate(self.widths), strict=True)
        return outputs_of(self, input, [range(end - width, end) for width, end in widths])


class Conv2d(Packed, Adapted, nn.Conv2d):
    """Computes a part of its output channels at a time where weights are large, or with fewer multiplications."""

    def forward(self, input: Tensor) -> Tensor:
        output = self._convolved(input)
        if self.low_rank is not None:
            kernels = self.low_rank.down.unflatten(1, (self.in_channels, *self.kernel_size))
            add_to_image(self.low_rank, self._conv_forward(input, kernels.to(input.dtype), None), output)
        return output

    def _convolved(self, input: Tensor) -> Tensor:
        if _saves_multiplications(self, input):
            bias = None if self.bias is None else widened(self.bias, input)
            return winograd.convolve(input, partial(_kernels, self, input.dtype), self.out_channels, bias)
        all_outputs = range(self.out_channels)
        parts = [self._conv_forward(input, weight, bias) for weight, bias in _parts(self, input, all_outputs)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


@dataclass(frozen=True)
class Moments:
    """Mean and variance [G] of the groups of a group norm, in float32."""

    mean: Tensor
    variance: Tensor


class GroupNorm(nn.GroupNorm):
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - one more argument
        self, input: Tensor, moments: Moments | None = None
    ) -> Tensor:
        """moments: those to go by in place of the input's own."""
        weight, bias = widened(self.weight, input), widened(self.bias, input)
        if moments is not None:
            return _normalised(input, moments, weight, bias, self.eps)
        if _loses_digits(input):
            return _precise_group_norm(input, self.num_groups, weight, bias, self.eps)
        return F.group_norm(input, self.num_groups, weight, bias, self.eps)


class LayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        weight, bias = widened(self.weight, input), widened(self.bias, input)
        return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class RMSNorm(nn.RMSNorm):
    """Scale to a root mean square of 1, then by the weight (Zhang and Sennrich 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, widened(self.weight, x), self.eps)


class Embedding(Packed, nn.Embedding):
    """Rows of a table that may lie elsewhere than the ids, on the host for instance: only the rows travel."""

    def reset_parameters(self) -> None:
        """Nothing on the meta device: drawing numbers there loads PyTorch's compiler, which takes a second or two."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, input: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Rows of `dtype` on the device of the ids, or of the type that the table is stored in, float32 if packed."""
        rows = F.embedding(input.to(self.weight.device), self.weight)
        if self.unpack_weight:
            rows = self.unpack_weight(rows.flatten(0, -2), dtype or torch.float32).unflatten(0, input.shape)
        return rows.to(input.device, dtype or rows.dtype)


class SiLU(nn.SiLU):
    def forward(self, input: Tensor) -> Tensor:
        return silu(input)


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that nobody else reads: in place unless a gradient is wanted."""
    return F.silu(x, inplace=not (torch.is_grad_enabled() and x.requires_grad))


def widened(parameter: Tensor, x: Tensor) -> Tensor:
    """A parameter in the type of x; never in a narrower one than its own, for what autocast rounds it rounds itself."""
    dtype = torch.promote_types(parameter.dtype, x.dtype)
    is_kernel = parameter.dim() == 4 and parameter.shape[-1] > 1
    if dtype != parameter.dtype and is_kernel:
        return parameter.to(dtype, memory_format=torch.channels_last)
    return parameter.to(dtype)


def rows_at_a_time(x: Tensor, width: int) -> tuple[Tensor, ...]:
    """Tokens [N, C] in groups for which `width` numbers a token make one piece."""
    return x.split(_fitting(width * x.dtype.itemsize)) if _in_pieces(x) else (x,)


def _loses_digits(x: Tensor) -> bool:
    """Whether PyTorch's group norm would: it adds up the pixels of a channels-last image one by one on a CPU.

    At 512 x 512 pixels that leaves five digits of float32's seven.
    """
    return (
        x.dtype == torch.float32
        and x.dim() == 4
        and x[0, 0].numel() > _FEW_PIXELS
        and x.is_contiguous(memory_format=torch.channels_last)
        and _in_pieces(x)
    )


def _precise_group_norm(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    batch, channels = x.shape[:2]
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # [B, N, C]
    pieces = pixels.split(_fitting(batch * channels * x.dtype.itemsize), dim=1)
    mean = torch.stack([piece.sum(1) for piece in pieces]).sum(0) / pixels.shape[1]  # [B, C]
    square = torch.stack([piece.square().sum(1) for piece in pieces]).sum(0) / pixels.shape[1]
    mean, square = (t.view(batch, num_groups, -1).mean(-1, keepdim=True) for t in (mean, square))  # [B, G, 1]
    scale = (square - mean.square() + eps).rsqrt() * weight.view(num_groups, -1)  # [B, G, C / G]
    shift = bias.view(num_groups, -1) - mean * scale
    return torch.addcmul(shift.view(batch, channels, 1, 1), x, scale.view(batch, channels, 1, 1))


def _normalised(x: Tensor, moments: Moments, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    per_group = len(weight) // len(moments.mean)
    scale = (moments.variance + eps).rsqrt().repeat_interleave(per_group) * weight.float()
    shift = bias.float() - moments.mean.repeat_interleave(per_group) * scale
    channels = (1, -1, *(1 for _ in x.shape[2:]))
    return torch.addcmul(shift.view(channels), x.float(), scale.view(channels)).to(x.dtype)


def outputs_of(layer: Linear | Conv2d, x: Tensor, spans: Sequence[range]) -> tuple[Tensor, ...]:
    """Some of the outputs, for each span, of a linear layer or of a convolution of 1 x 1 for tokens [..., channels]."""
    if layer.low_rank is None:
        return tuple(_products(layer, x, span) for span in spans)
    hidden = narrowed(layer.low_rank, x)
    return tuple(_adapted_products(layer, layer.low_rank, hidden, x, span) for span in spans)


def _adapted_products(layer: Linear | Conv2d, low_rank: LowRank, hidden: Tensor, x: Tensor, outputs: range) -> Tensor:
    """What is added comes first and the layer's own product is added to it: the sum is rounded once. Rounded before,
    it would be left as it is by everything that is smaller than half of its last digit."""
    rows = x.reshape(-1, x.shape[-1])
    out = hidden.new_zeros(rows.shape[0], len(outputs))
    add_products(low_rank, hidden, out, outputs.start)
    start = 0
    for weight, bias in _parts(layer, x, outputs):
        place = out[:, start : start + weight.shape[0]]
        place.addmm_(rows, weight.flatten(1).mT)
        if bias is not None:
            place.add_(bias)
        start += weight.shape[0]
    return out.view(*x.shape[:-1], -1)


def _products(layer: Linear | Conv2d, x: Tensor, outputs: range) -> Tensor:
    parts = [F.linear(x, weight.flatten(1), bias) for weight, bias in _parts(layer, x, outputs)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _parts(layer: Linear | Conv2d, x: Tensor, outputs: range) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Weight and bias, widened, for so many of the `outputs` at a time that the weights make one piece."""
    weight, bias = layer.weight, layer.bias
    step = _fitting(_row_numbers(layer) * x.dtype.itemsize)
    if step >= len(outputs) or not _in_pieces(x) or _is_as_computed(layer, x):
        step = len(outputs)
    if step == weight.shape[0]:
        yield _whole_weight(layer, x), None if bias is None else widened(bias, x)
        return
    for start in range(outputs.start, outputs.stop, step):
        rows = slice(start, min(start + step, outputs.stop))
        yield _weight_rows(layer, rows, x), None if bias is None else widened(bias[rows], x)


def _is_as_computed(layer: Linear | Conv2d, x: Tensor) -> bool:
    """Whether a matrix is used as it is held: nothing is made of it, and one product is faster than several.

    Of the kernels of a convolution a copy in another order is made at every call.
    """
    return isinstance(layer, Linear) and layer.unpack_weight is None and layer.weight.dtype == x.dtype


def _saves_multiplications(conv: Conv2d, x: Tensor) -> bool:
    """Whether a convolution goes by `winograd`: one of 3 x 3 in float32 on a CPU, of shapes for which that is faster.

    Compilers make their own plans, and gradients and autocast those of PyTorch.
    """
    return (
        _in_pieces(x)
        and x.dtype == torch.float32
        and x.dim() == 4
        and (conv.unpack_weight is not None or torch.promote_types(conv.weight.dtype, x.dtype) == x.dtype)
        and (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and (conv.groups, conv.padding_mode) == (1, "zeros")
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and winograd.pays(x.shape[0], conv.in_channels, conv.out_channels, *x.shape[2:])
    )


def _kernels(conv: Conv2d, dtype: torch.dtype, outputs: slice) -> Tensor:
    """Those of some outputs, in the order in which they are stored, which takes no time to copy."""
    rows = conv.weight[outputs]
    return rows.to(dtype) if conv.unpack_weight is None else conv.unpack_weight(rows, dtype)


def _weight_rows(layer: Linear | Conv2d, outputs: slice, x: Tensor) -> Tensor:
    if layer.unpack_weight is None:
        return widened(layer.weight[outputs], x)
    rows = layer.unpack_weight(layer.weight[outputs], x.dtype)
    return rows.contiguous(memory_format=torch.channels_last) if rows.dim() == 4 and rows.shape[-1] > 1 else rows


def _whole_weight(layer: Linear | Conv2d, x: Tensor) -> Tensor:
    """All rows; packed ones a part at a time, so that what unpacking needs beside its result stays small."""
    if layer.unpack_weight is None:
        return widened(layer.weight, x)
    num_rows, step = layer.weight.shape[0], max(1, _UNPACKED_AT_ONCE // _row_numbers(layer))
    if num_rows <= step:
        return _weight_rows(layer, slice(num_rows), x)
    return torch.cat([_weight_rows(layer, slice(start, start + step), x) for start in range(0, num_rows, step)])


def _row_numbers(layer: Linear | Conv2d) -> int:
    """How many numbers of the weight make one output."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    return layer.in_channels // layer.groups * math.prod(layer.kernel_size)


def _in_pieces(x: Tensor) -> bool:
    """Not with gradients: those of the pieces of a tensor would be summed in the rounded type of autocast."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def _fitting(row_bytes: int) -> int:
    """Rows of this many bytes that make one piece."""
    return max(_MIN_PIECE, _PIECE_BYTES // row_bytes // _MIN_PIECE * _MIN_PIECE)
