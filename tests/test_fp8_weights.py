"""Weights of eight bits: every code means what PyTorch says it means, in files, when widened and in layers."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.layers import Conv2d, Embedding, Linear
from backend.weights.fp8 import FP8, Fp8
from backend.weights.packing import Packable
from backend.weights.safetensors_file import open_safetensors, write_safetensors

WIDER = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ALL_PAIRS = torch.tensor(list(itertools.product(range(256), repeat=2)), dtype=torch.uint8)


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


@pytest.fixture(autouse=True)
def _the_same_numbers_each_time() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("stored", FP8, ids=str)
@pytest.mark.parametrize("wanted", WIDER, ids=str)
def test_every_pair_of_codes_is_widened_bit_for_bit_nan_included(stored, wanted):
    widened = Fp8(stored)(ALL_PAIRS, wanted)
    assert torch.equal(bits(widened), bits(ALL_PAIRS.view(stored).to(wanted)))
    assert widened.isnan().sum() == 2 * 256 * (2 if stored == torch.float8_e4m3fn else 6)


@pytest.mark.parametrize("stored", FP8, ids=str)
@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 300_001])
def test_any_stretch_of_codes_is_widened(stored, start, count):
    codes = torch.randint(256, (count + 3,), dtype=torch.uint8)[start : start + count]
    assert torch.equal(bits(Fp8(stored)(codes, torch.float32)), bits(codes.view(stored).float()))
    strided = torch.randint(256, (5, 6), dtype=torch.uint8).T
    assert torch.equal(bits(Fp8(stored)(strided, torch.float16)), bits(strided.contiguous().view(stored).half()))


@pytest.mark.parametrize("stored", FP8, ids=str)
@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 3, 3), (2, 300_001)], ids=str)
def test_a_file_gives_eight_bit_weights_as_numbers_and_as_rows_that_can_be_unpacked(tmp_path, stored, shape):
    weight = torch.randn(shape).to(stored)
    write_safetensors(tmp_path / "x", {"weight": weight, "bias": weight.flatten()[:5].clone()})
    source = open_safetensors(tmp_path / "x")
    packing = source.packing("weight")
    assert packing is not None
    assert packing.name == str(stored).removeprefix("torch.")
    assert source.packing("bias") is None, "one number an output is not worth it"
    rows = source.read_storage("weight").view(-1, packing.row_bytes)
    for wanted in WIDER:
        out = torch.empty(shape, dtype=wanted)
        source.read_into("weight", out)
        assert torch.equal(out, weight.to(wanted))
        assert torch.equal(packing.unpack(rows, wanted), weight.to(wanted))
        assert torch.equal(packing.unpack(rows[1:2], wanted), weight[1:2].to(wanted))


LAYERS = [
    (lambda: Linear(6, 8), (2, 5, 6)),
    (lambda: Linear(1500, 5003, bias=False), (3, 1500)),
    (lambda: Conv2d(6, 8, 3, padding=1, stride=2), (2, 6, 9, 7)),
    (lambda: Conv2d(4, 8, 1, groups=2), (1, 4, 5, 5)),
]


@torch.no_grad()
@pytest.mark.parametrize(("build", "shape"), LAYERS)
@pytest.mark.parametrize("stored", FP8, ids=str)
@pytest.mark.parametrize("computed", [torch.float32, torch.bfloat16], ids=str)
def test_a_layer_that_holds_packed_rows_computes_what_it_does_with_numbers(tmp_path, build, shape, stored, computed):
    layer = build().to(computed)
    weight = torch.randn(layer.weight.shape).to(stored)
    write_safetensors(tmp_path / "x", {"weight": weight})
    plain = nn.Parameter(weight.to(computed), requires_grad=False)
    x = torch.randn(shape).to(computed)
    layer.weight, layer.unpack_weight = plain, None
    expected = layer(x)
    hold_packed(layer, open_safetensors(tmp_path / "x"))
    result = layer(x)
    assert result.dtype == computed
    assert torch.equal(result, expected)


@pytest.mark.parametrize("stored", FP8, ids=str)
def test_an_embedding_unpacks_the_rows_that_are_asked_for(tmp_path, stored):
    table, ids = torch.randn(9, 6).to(stored), torch.tensor([[0, 8, 3], [3, 3, 1]])
    write_safetensors(tmp_path / "x", {"weight": table})
    layer = Embedding(9, 6)
    hold_packed(layer, open_safetensors(tmp_path / "x"))
    assert torch.equal(layer(ids), F.embedding(ids, table.float()))
    assert torch.equal(layer(ids, torch.bfloat16), F.embedding(ids, table.bfloat16()))


def hold_packed(layer: nn.Module, source) -> None:
    packing = source.packing("weight")
    assert packing is not None
    assert isinstance(layer, Packable)
    layer.weight = nn.Parameter(source.read_storage("weight").view(-1, packing.row_bytes), requires_grad=False)
    layer.unpack_weight = packing.unpack
