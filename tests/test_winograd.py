"""Convolutions by minimal filtering are PyTorch's, but for rounding, and depend on shapes alone."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.memory.dry_run import dry_run
from backend.memory.layouts import Target
from backend.memory.part import Part
from backend.nn import winograd
from backend.nn.layers import Conv2d
from backend.weights.source import InMemory

SIDE = 24  # 36 tiles


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def error(result: torch.Tensor, exact: torch.Tensor) -> float:
    return float((result - exact).norm() / exact.norm())


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 40),
    outputs=st.integers(1, 150),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    has_bias=st.booleans(),
    is_channels_last=st.booleans(),
)
def test_it_is_a_convolution_for_any_shape(batch, channels, outputs, height, width, has_bias, is_channels_last):
    x, weight = drawn(batch, channels, height, width), drawn(outputs, channels, 3, 3)
    bias = drawn(outputs) if has_bias else None
    exact = F.conv2d(x.double(), weight.double(), bias.double() if has_bias else None, padding=1)
    if is_channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    result = winograd.convolve(x, lambda rows: weight[rows], outputs, bias)
    assert result.shape == exact.shape
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert error(result, exact) < 3e-6


@torch.no_grad()
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("channels", "outputs", "height"), [(1280, 192, 17), (256, 1472, 33), (128, 128, 290)])
def test_in_pieces_of_tiles_and_of_kernels_it_stays_one(stored, channels, outputs, height):
    """Kernels in several pieces, too many of them to be kept, and tiles in several pieces."""
    conv = Conv2d(channels, outputs, 3, padding=1).to(stored)
    x = drawn(1, channels, height, 33).contiguous(memory_format=torch.channels_last)
    assert winograd.pays(1, channels, outputs, height, 33)
    expected = F.conv2d(x, conv.weight.float(), conv.bias.float(), padding=1)
    result = conv(x)
    assert error(result, expected) < 3e-6
    assert not torch.equal(result, expected)  # it was computed otherwise
    assert torch.equal(conv(x), result)


@torch.no_grad()
def test_its_rounding_is_near_that_of_a_direct_convolution():
    x, weight = drawn(1, 320, 32, 32), drawn(128, 320, 3, 3)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    result = winograd.convolve(x, lambda rows: weight[rows], 128, None)
    assert error(result, exact) < 10 * error(F.conv2d(x, weight, padding=1), exact)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [{"stride": 2}, {"padding": 0}, {"dilation": 2, "padding": 2}, {"groups": 2}, {"padding_mode": "circular"}],
)
def test_other_kinds_of_convolutions_are_pytorchs(options):
    options = {"padding": 1, **options}
    conv = Conv2d(256, 256, 3, **options).to(memory_format=torch.channels_last)
    theirs = torch.nn.Conv2d(256, 256, 3, **options)
    theirs.load_state_dict(conv.state_dict())
    x = drawn(1, 256, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    assert torch.allclose(conv(x), theirs(x), atol=1e-5)


def test_compiled_with_gradients_or_in_bfloat16_a_convolution_is_pytorchs():
    conv = Conv2d(128, 128, 3, padding=1).to(memory_format=torch.channels_last)
    x = drawn(1, 128, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    direct = F.conv2d(x, conv.weight, conv.bias, padding=1)
    assert torch.equal(conv(x), direct)
    with torch.no_grad():
        assert not torch.equal(conv(x), direct)
        assert torch.equal(torch.compile(conv, backend="eager")(x), direct)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert conv(x).dtype == torch.bfloat16
        low = conv.bfloat16()
        assert torch.equal(low(x.bfloat16()), F.conv2d(x.bfloat16(), low.weight, low.bias, padding=1))


@pytest.mark.parametrize(
    ("shape", "does"),
    [
        ((2, 320, 320, 64, 64), True),
        ((2, 2560, 1280, 16, 16), True),
        ((1, 128, 128, 512, 512), True),
        ((2, 1280, 1280, 8, 8), False),  # too few tiles to share what the kernels take
        ((1, 4, 320, 64, 64), False),
        ((1, 128, 3, 512, 512), False),
        ((64, 1280, 1280, 1, 1), False),  # tiles of one pixel
    ],
)
def test_it_pays_for_many_tiles_and_many_channels(shape, does):
    assert winograd.pays(*shape) is does


@torch.no_grad()
def test_a_dry_run_counts_what_it_takes():
    def build() -> torch.nn.Module:
        return torch.nn.Sequential(Conv2d(128, 128, 3, padding=1))

    weights = InMemory(build().state_dict())
    part = Part("key", "network", weights, Target(torch.device("cpu"), torch.float32), build)
    cost = dry_run(part, lambda module, device: module(torch.empty(1, 128, 256, 256, device=device)))
    own = 2 * 256 * 256 * 128 * 4 + 36 * 128 * 128 * 4  # the image, the result, the kernels
    assert own + 20 * 2**20 < cost.peak_bytes < own + 32 * 2**20  # and 12 MiB each of tiles and products
