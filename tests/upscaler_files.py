"""Tiny upscalers in the names of published files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

CHANNELS, GROWTH = 8, 4
RELEASED = {"conv_body": "trunk_conv", "conv_up1": "upconv1", "conv_up2": "upconv2", "conv_hr": "HRconv"}


def esrgan(
    *, seed: int = 0, colours: int = 3, blocks: int = 1, doublings: int = 2, unshuffle: int = 1, size: float = 0.1
) -> dict[str, Tensor]:
    """In RealESRGAN's names. size: of the numbers in it."""
    shapes = {"conv_first": (CHANNELS, colours * unshuffle**2), "conv_body": (CHANNELS, CHANNELS)}
    for block in range(blocks):
        for dense in (1, 2, 3):
            for layer in range(1, 6):
                width = CHANNELS + (layer - 1) * GROWTH
                shapes[f"body.{block}.rdb{dense}.conv{layer}"] = (GROWTH if layer < 5 else CHANNELS, width)
    shapes |= {f"conv_up{number}": (CHANNELS, CHANNELS) for number in range(1, doublings + 1)}
    shapes |= {"conv_hr": (CHANNELS, CHANNELS), "conv_last": (colours, CHANNELS)}
    return _drawn(shapes, seed, size)


def compact(*, seed: int = 0, scale: int = 2, convs: int = 2, size: float = 0.1) -> dict[str, Tensor]:
    """In the names of RealESRGAN's compact models; with size 0 it repeats every pixel."""
    shapes = {"body.0": (CHANNELS, 3)}
    for number in range(convs):
        shapes[f"body.{2 * number + 2}"] = (CHANNELS, CHANNELS)
    shapes[f"body.{2 * convs + 2}"] = (3 * scale**2, CHANNELS)
    slopes = {f"body.{2 * number + 1}.weight": torch.full((CHANNELS,), 0.1) for number in range(convs + 1)}
    return _drawn(shapes, seed, size) | slopes


def as_released(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ESRGAN's names of 2018, of weights in RealESRGAN's."""
    named: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        layer, _, kind = key.rpartition(".")
        layer = layer.replace("body.", "RRDB_trunk.").replace("rdb", "RDB")
        named[f"{RELEASED.get(layer, layer)}.{kind}"] = tensor
    return named


def as_numbered(weights: Mapping[str, Tensor], *, blocks: int = 1) -> dict[str, Tensor]:
    """ESRGAN's oldest names, for two doublings."""
    numbers = {
        "conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}", "conv_up1": "model.3", "conv_up2": "model.6",
        "conv_hr": "model.8", "conv_last": "model.10",
    }  # fmt: skip
    named: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        layer, _, kind = key.rpartition(".")
        deep = layer.replace("body.", "model.1.sub.").replace("rdb", "RDB") + ".0"
        named[f"{numbers.get(layer, deep)}.{kind}"] = tensor
    return named


def write_upscaler(path: Path, weights: Mapping[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(weights), path)
    return path


def _drawn(shapes: Mapping[str, tuple[int, int]], seed: int, size: float) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for layer, (outputs, inputs) in shapes.items():
        weights[f"{layer}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=draw) * size
        weights[f"{layer}.bias"] = torch.randn(outputs, generator=draw) * size
    return weights
