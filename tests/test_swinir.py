"""SwinIR: its attention against one that looks at all pixels at once, its kinds of files, its published sizes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.errors import KeysDoNotMatch, UnsupportedCheckpoint
from backend.families.family import Machine
from backend.memory.device import DeviceFacts
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.residency import Residency
from backend.nn.swinir import Block, Enlarging, SwinIR, SwinIRConfig
from backend.upscaling.builtin import BUILTIN
from backend.upscaling.upscaler import Upscaler, open_upscaler
from backend.weights.source import InMemory

FULL = DtypePolicy(unet=torch.float32, text_encoder=torch.float32, autoencoder=torch.float32)
DEVICE = DeviceFacts(kind="cpu", name="test", total_bytes=2**33, has_bfloat16=True, has_float16=False)
TINY = SwinIRConfig(channels=8, heads=2, window=4, hidden=12, depths=(2, 3), enlarging=Enlarging.NEAREST, steps=(2, 2))


def drawn(module: torch.nn.Module, size: float = 0.3) -> torch.nn.Module:
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * size)
    return module.eval().requires_grad_(False)


def opened(weights: dict[str, Tensor]) -> Upscaler:
    machine = Machine(device=DEVICE, policy=FULL, residency=Residency(2**30))
    return open_upscaler(InMemory(weights, origin=Path("tiny.pth")), BUILTIN, machine)


def file_of(config: SwinIRConfig, size: float = 0.1) -> dict[str, Tensor]:
    """With the buffers that files hold beside weights."""
    weights = dict(drawn(SwinIR(config), size).state_dict())
    weights["layers.0.residual_group.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    weights["layers.0.residual_group.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    return weights


def picture(height: int, width: int, colours: int = 3) -> Tensor:
    return torch.randint(0, 256, (colours, height, width), generator=torch.Generator().manual_seed(1)).byte()


@pytest.mark.parametrize("shift", [0, 2])
def test_pixels_attend_to_those_that_lie_in_their_window(shift: int) -> None:
    """Every pixel asks every other one; a window is what falls into one square of a grid that begins at `shift`."""
    block, side = drawn(Block(TINY, shift=shift)), TINY.window
    assert isinstance(block, Block)
    height, width = 8, 12
    x = torch.randn(1, height, width, 8, generator=torch.Generator().manual_seed(2))
    rows, columns = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    square = torch.stack(
        ((rows - shift).div(side, rounding_mode="floor"), (columns - shift).div(side, rounding_mode="floor"))
    )
    together = (square[:, :, None] == square[:, None]).all(0)
    down, right = (place[:, None] - place[None] for place in (rows, columns))
    number = (down + side - 1) * (2 * side - 1) + right + side - 1
    bias = block.attn.relative_position_bias_table[number.clamp(0, (2 * side - 1) ** 2 - 1)].permute(2, 0, 1)

    q, k, v = block.attn.qkv(block.norm1(x)).view(height * width, 3, 2, 4).permute(1, 2, 0, 3)
    scores = q @ k.transpose(-1, -2) / math.sqrt(4) + bias
    attended = scores.masked_fill(~together, -math.inf).softmax(-1) @ v
    middle = x + block.attn.proj(attended.transpose(0, 1).reshape(1, height, width, 8))
    mlp = block.mlp
    expected = middle + mlp.fc2(F.gelu(mlp.fc1(block.norm2(middle))))
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({}, 4),
        ({"steps": (2,), "has_bottleneck": True}, 2),
        ({"enlarging": Enlarging.SHUFFLE, "steps": (2, 2)}, 4),
        ({"enlarging": Enlarging.SHUFFLE, "steps": (3,)}, 3),
        ({"enlarging": Enlarging.DIRECT, "steps": (2,)}, 2),
        ({"enlarging": Enlarging.NONE, "steps": ()}, 1),
        ({"enlarging": Enlarging.NONE, "steps": (), "window": 7, "range": 255.0, "colours": 1}, 1),
    ],
)
def test_every_kind_of_file_tells_its_network(changes: dict[str, object], scale: int) -> None:
    config = dataclasses.replace(TINY, **changes)
    upscaler = opened({f"params_ema.{key}": tensor for key, tensor in file_of(config).items()})
    assert (upscaler.label, upscaler.scale, upscaler.channels) == ("SwinIR", scale, config.colours)
    image = picture(2 * config.window, 3 * config.window, config.colours)
    expected = drawn(SwinIR(config), 0.1)(image[None].float() / 255)[0].clamp(0, 1) * 255
    assert int((upscaler.upscale(image).int() - expected.round().int()).abs().max()) <= 1


def test_any_size_is_taken_and_tiles_keep_to_the_grid_of_windows() -> None:
    upscaler = opened(file_of(TINY, 0.05))
    assert upscaler.upscale(picture(13, 18)).shape == (3, 52, 72)
    image = picture(9, 200)
    made, whole = upscaler.upscale(image, tile=100), upscaler.upscale(image)
    assert int((made.int() - whole.int()).abs().max()) <= 1


@pytest.mark.parametrize(("scale", "thousands"), [(2, 878), (3, 886), (4, 897)])
def test_the_light_network_has_the_size_that_the_paper_says(scale: int, thousands: int) -> None:
    config = SwinIRConfig(
        channels=60, heads=6, window=8, hidden=120, depths=(6,) * 4, enlarging=Enlarging.DIRECT, steps=(scale,)
    )
    with torch.device("meta"):
        network = SwinIR(config)
    names = dict(network.named_parameters())
    counted = sum(tensor.numel() for name, tensor in names.items() if not name.startswith("conv_after_body"))
    assert round(counted / 1000) == thousands  # the paper counts without that convolution
    assert names["layers.3.residual_group.blocks.5.attn.relative_position_bias_table"].shape == (225, 6)
    assert {"patch_embed.norm.weight", "layers.3.conv.weight", "norm.bias", "conv_after_body.weight"} <= names.keys()


def test_half_of_a_file_is_refused() -> None:
    whole = file_of(TINY)
    with pytest.raises(UnsupportedCheckpoint, match="fc1"):
        opened({key: tensor for key, tensor in whole.items() if "blocks.0.mlp.fc1" not in key})
    with pytest.raises(KeysDoNotMatch, match="conv_hr"):
        opened({key: tensor for key, tensor in whole.items() if not key.startswith("conv_hr")})
