"""Packed weights on another device than the CPU: they take their packed bytes there, and give the same numbers."""

import gc
import json

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backend.memory.layouts import Target
from backend.memory.part import Part
from backend.memory.residency import Residency
from backend.nn.layers import Linear
from backend.weights.ggml_formats import FORMATS
from backend.weights.gguf_file import open_gguf
from backend.weights.safetensors_file import write_safetensors
from backend.weights.source import WeightSource
from backend.weights.views import View, Viewed
from backend.weights.weight_file import open_weights
from tests.inline_executor import InlineExecutor
from tests.simgpu import DEVICE, GPU, SimulatedTransport

ROWS, NUMBERS = 96, 768
E4M3 = torch.float8_e4m3fn


@pytest.fixture(autouse=True)
def card():
    torch.manual_seed(0)
    GPU.reset()
    yield
    gc.collect()
    assert GPU.used == 0


def gguf_weight(folder, number: int) -> WeightSource:
    format = FORMATS[number]
    blocks = np.random.default_rng(0).integers(0, 60, (ROWS * NUMBERS // format.block_numbers, format.block_bytes))
    writer = gguf.GGUFWriter(folder / "x", "flux")
    data = blocks.astype(np.uint8).reshape(ROWS, -1)
    writer.add_tensor("weight", data, raw_dtype=gguf.GGMLQuantizationType(number))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return open_gguf(folder / "x")


def stored(folder, tensors: dict[str, Tensor]) -> WeightSource:
    write_safetensors(folder / "x", tensors)
    return open_weights(folder / "x")


def four_bits(folder) -> WeightSource:
    state = json.dumps({"blocksize": 64, "shape": [ROWS, NUMBERS]}).encode()
    return stored(
        folder,
        {
            "weight": torch.randint(256, (ROWS * NUMBERS // 2, 1), dtype=torch.uint8),
            "weight.absmax": torch.rand(ROWS * NUMBERS // 64),
            "weight.quant_map": torch.linspace(-1, 1, 16),
            "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(state), dtype=torch.uint8),
        },
    )


def eight_bits(folder, scale: Tensor | None = None) -> WeightSource:
    weight = torch.randn(ROWS, NUMBERS).to(E4M3)
    return stored(folder, {"weight": weight} if scale is None else {"weight": weight, "weight_scale": scale})


KINDS = {
    "fp8": eight_bits,
    "scaled fp8": lambda folder: eight_bits(folder, torch.tensor(0.3)),
    "fp8 scaled by row": lambda folder: eight_bits(folder, torch.rand(ROWS, 1)),
    "nf4": four_bits,
    **{format.name: lambda folder, number=number: gguf_weight(folder, number) for number, format in FORMATS.items()},
}


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_packed_weights_on_a_device_take_few_bytes_and_give_the_same_numbers(tmp_path, kind, dtype):
    source = KINDS[kind](tmp_path)
    part = Part(
        "layer",
        "layer",
        _under(source, "0."),
        Target(DEVICE, dtype),
        lambda: nn.Sequential(Linear(NUMBERS, ROWS, bias=False)),
    )
    layer = Residency(2**30, transport=SimulatedTransport(), readers=InlineExecutor()).get(part)
    assert GPU.used < source.storage_bytes("weight") + 1024
    x = torch.randn(3, NUMBERS).to(dtype)
    expected = nn.functional.linear(x, source.read("weight").to(dtype))
    assert torch.equal(layer(x.to(DEVICE)).cpu(), expected)


def _under(source: WeightSource, prefix: str) -> WeightSource:
    return Viewed(source, {prefix + key: View(key) for key in source.keys()})
