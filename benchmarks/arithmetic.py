"""The arithmetic of a step and of a decode, and the best this machine can do: `... benchmarks.arithmetic SHAPE`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from backend.nn.attention import AttentionPlace, attention
from backend.nn.autoencoder import Autoencoder, AutoencoderConfig
from backend.nn.unet import UNet, UNetConfig
from benchmarks.checkpoint import SHAPES

_ROUNDS = 5


@torch.inference_mode()
def main(shape: str) -> None:
    peaks = {
        f"{kind} {str(dtype).removeprefix('torch.')}": measure(dtype)
        for dtype in (torch.float32, torch.bfloat16)
        for kind, measure in (("matmul", _matmul_peak), ("convolution", _convolution_peak))
    }
    flops = {"step_flops": step_flops(SHAPES[shape].unet or UNetConfig()), "decode_flops": decode_flops()}
    print(json.dumps({**flops, "peaks": peaks, "attention": _attention_speeds()}))


def step_flops(config: UNetConfig) -> int:
    """Of one step at 512 x 512 with guidance: two evaluations."""
    with torch.device("meta"):
        unet = UNet(config)
        vector = None if config.adm_in_channels is None else torch.randn(2, config.adm_in_channels)
        inputs = torch.randn(2, 4, 64, 64), torch.randn(2), torch.randn(2, 77, config.context_dim), vector
    with FlopCounterMode(display=False) as counter:
        unet(*inputs)
    return counter.get_total_flops()


def decode_flops() -> int:
    """Of decoding one picture of 512 x 512."""
    with torch.device("meta"):
        autoencoder, latents = Autoencoder(AutoencoderConfig()), torch.randn(1, 4, 64, 64)
    with FlopCounterMode(display=False) as counter:
        autoencoder.decode(latents)
    return counter.get_total_flops()


def _matmul_peak(dtype: torch.dtype) -> float:
    size = 2048
    factor = torch.randn(size, size).to(dtype)
    return 2 * size**3 / _best(lambda: torch.mm(factor, factor))


def _convolution_peak(dtype: torch.dtype) -> float:
    """The 3x3 convolution of SD 1.5's first level, channels-last."""
    x = torch.randn(2, 320, 64, 64).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(320, 320, 3, 3).to(dtype, memory_format=torch.channels_last)
    return 2 * x.numel() * 320 * 9 / _best(lambda: F.conv2d(x, weight, padding=1))


def _attention_speeds() -> dict[str, float]:
    """Of the self-attention at SD 1.5's first level, by PyTorch's fused kernel and as the networks do it."""
    place = AttentionPlace("input_blocks.1.1.transformer_blocks.0", is_cross=False)
    speeds: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (torch.randn(2, 4096, 8, 40).to(dtype).transpose(1, 2) for _ in range(3))
        flops, name = 4 * q.numel() * 4096, str(dtype).removeprefix("torch.")
        speeds[f"{name}, fused"] = flops / _best(partial(F.scaled_dot_product_attention, q, k, v))
        speeds[f"{name}, ours"] = flops / _best(partial(attention, q, k, v, place))
    return speeds


def _best(compute: Callable[[], object]) -> float:
    """Seconds of the best of several times."""
    seconds: list[float] = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    main(sys.argv[1])
