"""Random weights that networks of ours and of diffusers share."""

import torch
from torch import Tensor, nn


def with_random_weights(module: nn.Module) -> nn.Module:
    """Weights of about the spread that keeps activations near 1, so that relative errors mean something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 0.1 if parameter.dim() < 2 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
            if parameter.dim() < 2:
                parameter.add_(0.5)
    return module.eval().requires_grad_(False)


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).abs().max() / reference.abs().max())


def parts_of(weights: dict[str, Tensor], name: str, widths: list[int]) -> dict[int, dict[str, Tensor]]:
    """The weight and bias of a fused layer, taken apart along its outputs."""
    split = {kind: weights[f"{name}.{kind}"].split(widths) for kind in ("weight", "bias")}
    return {index: {kind: split[kind][index] for kind in split} for index in range(len(widths))}
