"""Layers that widen their weights when they use them, a piece at a time, compute what PyTorch's layers compute."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.layers import (
    Conv2d,
    Embedding,
    GroupNorm,
    LayerNorm,
    Linear,
    RMSNorm,
    SplitLinear,
    rows_at_a_time,
    silu,
)

PAIRS = [
    (Linear(6, 8), nn.Linear(6, 8), (2, 5, 6)),
    (Linear(6, 8, bias=False), nn.Linear(6, 8, bias=False), (2, 5, 6)),
    (Conv2d(6, 8, 3, padding=1, stride=2), nn.Conv2d(6, 8, 3, padding=1, stride=2), (2, 6, 9, 7)),
    (Conv2d(6, 8, 1), nn.Conv2d(6, 8, 1), (2, 6, 9, 7)),
    (GroupNorm(2, 6), nn.GroupNorm(2, 6), (2, 6, 9, 7)),
    (LayerNorm(6), nn.LayerNorm(6), (2, 5, 6)),
    (RMSNorm(6, 1e-6), nn.RMSNorm(6, 1e-6), (2, 5, 6)),
]


@pytest.fixture(autouse=True)
def _the_same_numbers_each_time() -> None:
    torch.manual_seed(0)


def paired(ours: nn.Module, theirs: nn.Module) -> None:
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize(("ours", "theirs", "shape"), PAIRS)
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_narrow_weights_compute_as_widened_ones(ours, theirs, shape, stored):
    ours.float()
    paired(ours, theirs)
    x = torch.randn(shape)
    expected = theirs.to(stored).float()(x)
    assert ours.to(stored)(x).dtype == torch.float32
    assert torch.allclose(ours(x), expected, rtol=1e-5, atol=1e-5)
    assert all(parameter.dtype == stored for parameter in ours.parameters())


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # autocast leaves RMS norms as they are
@pytest.mark.parametrize(("ours", "theirs", "shape"), PAIRS)
def test_under_autocast_results_and_gradients_are_bit_for_bit_those_of_pytorchs_layers(ours, theirs, shape):
    ours.float()
    theirs.float()
    paired(ours, theirs)
    x = torch.randn(shape)
    for low in (x, x.bfloat16()):
        results: list[Tensor] = []
        for layer in (ours, theirs):
            layer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                results.append(layer(low))
            results[-1].float().square().sum().backward()
        assert results[0].dtype == results[1].dtype
        assert torch.equal(*results)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(mine.grad, other.grad)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stored", [torch.float16, torch.float32], ids=str)
def test_large_weights_are_used_in_pieces_to_the_same_result(stored, bias):
    """Forty and fifty MiB, with outputs that fill no whole number of pieces."""
    linear = Linear(2048, 5003, bias=bias).to(stored)
    x = torch.randn(3, 2048)
    expected = F.linear(x, linear.weight.float(), linear.bias.float() if bias else None)
    assert torch.allclose(linear(x), expected, atol=1e-5)
    conv = Conv2d(1024, 1423, 3, padding=1, bias=bias).to(stored)
    x = torch.randn(1, 1024, 4, 4).to(memory_format=torch.channels_last)
    expected = F.conv2d(x, conv.weight.float(), conv.bias.float() if bias else None, padding=1)
    result = conv(x)
    assert torch.allclose(result, expected, atol=1e-5)
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stored", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("widths", [[5, 7, 12], [2600, 30, 2600]], ids=["in one piece", "of several pieces"])
def test_outputs_that_are_wanted_apart_are_those_of_one_product_without_gaps(stored, widths):
    layer = SplitLinear(4096, widths).to(stored)
    x = torch.randn(2, 3, 4096)
    whole = F.linear(x, layer.weight.float(), layer.bias.float())
    with torch.no_grad():
        apart = layer(x)
    assert [part.shape[-1] for part in apart] == widths
    assert all(part.is_contiguous() for part in apart)
    assert torch.allclose(torch.cat(apart, dim=-1), whole, rtol=1e-5, atol=1e-5)


def test_gradients_arrive_through_outputs_that_are_wanted_apart():
    layer, x = SplitLinear(6, [2, 3]), torch.randn(4, 6)
    first, second = layer(x)
    (first.sum() + 2 * second.sum()).backward()
    assert torch.equal(layer.bias.grad, torch.tensor([4.0, 4, 8, 8, 8]))


def test_an_embedding_without_memory_is_made_without_loading_the_compiler():
    code = (
        "import sys, torch; from backend.nn.layers import Embedding; table = Embedding(5, 3, device='meta');"
        "sys.exit('torch._dynamo' in sys.modules or not table.weight.is_meta)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_an_embedding_with_memory_starts_with_random_numbers():
    assert Embedding(50, 30).weight.detach().std() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("stored", [torch.float16, torch.float8_e4m3fn], ids=str)
def test_embeddings_widen_the_rows_that_are_looked_up(stored):
    table = Embedding(9, 6).requires_grad_(False).to(stored)
    ids = torch.tensor([[1, 8, 1]])
    assert table(ids).dtype == stored
    rows = table(ids, torch.float32)
    assert torch.equal(rows, table.weight[ids].float())
    assert table.weight.dtype == stored


def test_rows_come_in_pieces_that_make_up_the_whole_and_in_one_with_gradients():
    x = torch.randn(1000, 3)
    with torch.no_grad():
        pieces = rows_at_a_time(x, 20_000)
    assert len(pieces) > 1
    assert torch.equal(torch.cat(pieces), x)
    assert [piece.shape for piece in rows_at_a_time(x, 20_000)] == [x.shape]


@torch.no_grad()
@pytest.mark.parametrize(("channels", "side"), [(8, 512), (24, 200), (8, 16)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
def test_group_norm_keeps_its_digits_whatever_the_size(channels, side, layout):
    x = (torch.randn(2, channels, side, side) * 3 + 1).to(memory_format=layout)
    norm = GroupNorm(4, channels, eps=1e-6)
    paired(norm, nn.GroupNorm(4, channels))
    exact = F.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), 1e-6)
    result = norm(x)
    assert float((result - exact).abs().max() / exact.abs().max()) < 1e-6
    assert result.is_contiguous(memory_format=layout)


def test_silu_is_in_place_unless_a_gradient_is_wanted():
    x = torch.randn(5)
    expected = F.silu(x)
    wanted = x.clone().requires_grad_()
    assert torch.equal(silu(wanted), expected)
    assert torch.equal(wanted, x)
    with torch.no_grad():
        assert silu(x).data_ptr() == x.data_ptr()
    assert torch.equal(x, expected)
