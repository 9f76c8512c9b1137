"""Hypernetworks of Stable Diffusion's U-Net: small networks that change what attentions take their keys and values of.

Published by NovelAI in 2022 and trained with A1111: for each width of a context, one network for keys and one for
values; context' = context + strength * network(context).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.layers import LayerNorm, Linear

# Shapes: G conditionings or images, M tokens, D width of the context.

# The names by which A1111 knows them: its own, and PyTorch's classes in small letters. Softmax is left out: for three
# dimensions, PyTorch takes it over the pictures of a batch, which would then depend on each other.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({
    "relu": torch.relu,
    "leakyrelu": F.leaky_relu,
    "elu": F.elu,
    "swish": F.hardswish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "celu": F.celu,
    "gelu": F.gelu,
    "hardshrink": F.hardshrink,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "logsigmoid": F.logsigmoid,
    "mish": F.mish,
    "relu6": F.relu6,
    "rrelu": F.rrelu,  # which draws its slope in training only
    "selu": F.selu,
    "silu": F.silu,
    "softplus": F.softplus,
    "softshrink": F.softshrink,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
})  # fmt: skip
PRELU = "prelu"  # the one with a weight
LINEAR = "linear"  # none at all


@dataclass(frozen=True, kw_only=True)
class HypernetworkConfig:
    """widths: of a context, and of what each linear layer makes of it, the last one the context's own again.

    activation: LINEAR, PRELU or a name of ACTIVATIONS. activates_output: whether the last layer has one, too.
    has_norms: whether each layer is followed by a LayerNorm.
    """

    widths: Mapping[int, tuple[int, ...]]
    activation: str = LINEAR
    activates_output: bool = True
    has_norms: bool = False


class Hypernetwork(nn.Module):
    """For each width of a context, a network for keys and one for values."""

    def __init__(self, config: HypernetworkConfig) -> None:
        super().__init__()
        self.pairs = nn.ModuleDict({
            str(width): nn.ModuleList([_Branch(width, outputs, config), _Branch(width, outputs, config)])
            for width, outputs in config.widths.items()
        })  # fmt: skip

    def forward(self, for_keys: Tensor, for_values: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts [G, M, D]; those of a width that it knows nothing of stay as they are. strength: one number."""
        width = str(for_keys.shape[-1])
        if width not in self.pairs:
            return for_keys, for_values
        keys, values = self.pairs[width]  # pyright: ignore[reportGeneralTypeIssues] - a ModuleList of two
        return for_keys + strength * keys(for_keys), for_values + strength * values(for_values)


class _Branch(nn.Module):
    def __init__(self, width: int, outputs: tuple[int, ...], config: HypernetworkConfig) -> None:
        super().__init__()
        inputs = (width, *outputs[:-1])
        self.layers = nn.ModuleList(
            _Layer(
                before,
                after,
                config.activation if config.activates_output or index < len(outputs) - 1 else LINEAR,
                config.has_norms,
            )
            for index, (before, after) in enumerate(zip(inputs, outputs, strict=True))
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class _Layer(nn.Module):
    def __init__(self, before: int, after: int, activation: str, has_norm: bool) -> None:
        super().__init__()
        self.linear = Linear(before, after)
        self.activation = _activation(activation)
        self.norm = LayerNorm(after) if has_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.activation(self.linear(x)))


class _Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class _PReLU(nn.PReLU):
    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, self.weight.to(input.dtype))


def _activation(name: str) -> nn.Module:
    if name == LINEAR:
        return nn.Identity()
    return _PReLU() if name == PRELU else _Function(ACTIVATIONS[name])


@dataclass(frozen=True, eq=False)
class ContextChange:
    """Hypernetworks with their strengths [N]: what attentions to a context take their keys and their values of."""

    networks: nn.ModuleList
    strengths: Tensor

    def __call__(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts [G, M, D] for keys and for values."""
        for_keys = for_values = context
        for network, strength in zip(self.networks, self.strengths, strict=True):
            for_keys, for_values = network(for_keys, for_values, strength)
        return for_keys, for_values
