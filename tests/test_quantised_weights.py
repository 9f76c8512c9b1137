"""Weights that are stored as codes and scales: numbers as their formats define them, and no trace of the other keys."""

import json

import pytest
import torch
from torch import Tensor, nn

from backend.errors import BadCheckpoint, UnsupportedCheckpoint
from backend.memory.layouts import Target
from backend.nn.layers import Linear
from backend.weights.safetensors_file import write_safetensors
from backend.weights.source import WeightSource
from backend.weights.weight_file import open_weights
from tests.held_networks import held_network

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
STATE = ".quant_state.bitsandbytes__"


@pytest.fixture(autouse=True)
def _the_same_numbers_each_time() -> None:
    torch.manual_seed(0)


def opened(path, tensors: dict[str, Tensor]) -> WeightSource:
    write_safetensors(path / "model.safetensors", tensors)
    return open_weights(path / "model.safetensors")


def assert_packed(source: WeightSource, key: str, expected: Tensor) -> None:
    """Every way to get at a packed weight gives these numbers."""
    packing = source.packing(key)
    assert packing is not None
    assert source.spec(key).shape == tuple(expected.shape)
    assert source.spec(key).dtype == torch.float32
    assert torch.equal(source.read(key), expected)
    slot = torch.zeros(source.storage_bytes(key), dtype=torch.uint8)
    source.read_storage_into(key, slot)
    assert torch.equal(slot, source.read_storage(key))
    rows = slot.view(-1, packing.row_bytes)
    assert len(rows) == len(expected)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        out = torch.empty(expected.shape, dtype=dtype)
        source.read_into(key, out)
        assert torch.equal(out, expected.to(dtype))
        assert torch.equal(packing.unpack(rows[1:3], dtype), expected[1:3].to(dtype))
    layer = Linear(expected[0].numel(), len(expected), bias=False)
    x = torch.randn(2, expected[0].numel())
    layer.weight = nn.Parameter(expected.flatten(1), requires_grad=False)
    whole = layer(x)
    layer.weight = nn.Parameter(rows, requires_grad=False)
    layer.unpack_weight = packing.unpack
    with torch.no_grad():
        assert torch.equal(layer(x), whole)


# Eight bits with scales


@pytest.mark.parametrize("stored", [E4M3, E5M2], ids=str)
@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
@pytest.mark.parametrize("names", [("scale_weight", "scale_input"), ("weight_scale", "input_scale")])
def test_a_weight_with_one_scale_stays_a_view_of_the_file(tmp_path, stored, shape, names):
    weight, scale = torch.randn(5, 6).to(stored), torch.full(shape, 0.0137)
    source = opened(
        tmp_path,
        {
            "model.scaled_fp8": torch.zeros(2).to(stored),
            "model.a.weight": weight,
            f"model.a.{names[0]}": scale,
            f"model.a.{names[1]}": torch.ones(()),
            "model.a.comfy_quant": torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8),
            "model.a.bias": torch.ones(5),
            "model.b.weight": torch.ones(2, 2).half(),
        },
    )
    assert set(source.keys()) == {"model.a.weight", "model.a.bias", "model.b.weight"}
    assert_packed(source, "model.a.weight", weight.float() * 0.0137)
    assert source.read_storage("model.a.weight").data_ptr() == source.read_storage("model.a.weight").data_ptr()
    assert source.storage_bytes("model.a.weight") == 30
    assert source.packing("model.b.weight") is None
    assert torch.equal(source.read("model.b.weight"), torch.ones(2, 2).half())


@pytest.mark.parametrize("shape", [(5,), (5, 1)], ids=str)
def test_a_scale_for_each_row_travels_with_the_row(tmp_path, shape):
    weight, scales = torch.randn(5, 7).to(E4M3), torch.rand(shape)
    source = opened(tmp_path, {"a.weight": weight, "a.weight_scale": scales})
    assert source.keys() == ("a.weight",)
    assert_packed(source, "a.weight", weight.float() * scales.view(5, 1))


def test_scaled_weights_that_are_not_worth_packing_are_numbers(tmp_path):
    wide, vector = torch.randn(3, 4).bfloat16(), torch.randn(4).to(E4M3)
    tensors = {
        "scaled_fp8": torch.zeros(0).to(E4M3),
        "a.weight": wide, "a.scale_weight": torch.tensor(0.5),
        "b.weight": vector, "b.scale_weight": torch.tensor([3.0]),
        "c.weight": wide, "c.scale_weight": torch.rand(3, 1),
    }  # fmt: skip
    source = opened(tmp_path, tensors)
    assert set(source.keys()) == {"a.weight", "b.weight", "c.weight"}
    assert torch.equal(source.read("a.weight"), wide.float() * 0.5)
    assert torch.equal(source.read("b.weight"), vector.float() * 3)
    assert torch.equal(source.read("c.weight"), wide.float() * tensors["c.scale_weight"])
    assert all(source.packing(key) is None for key in source.keys())
    assert source.storage_bytes("a.weight") == 48


def test_identities_tell_scales_apart(tmp_path):
    weight = torch.randn(5, 6).to(E4M3)
    tensors = {
        "a.weight": weight,
        "a.weight_scale": torch.ones(()),
        "b.weight": weight,
        "b.weight_scale": torch.ones(()),
    }
    source = opened(tmp_path, tensors)
    assert source.identity("a.weight") != source.identity("b.weight")
    assert source.identity("a.weight") == open_weights(tmp_path / "model.safetensors").identity("a.weight")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a.weight": torch.zeros(4, 4, dtype=torch.int8), "a.weight_scale": torch.ones(())}, "quantised as int8"),
        (
            {
                "a.weight": torch.zeros(4, 2, dtype=torch.uint8),
                "a.weight_scale": torch.ones(4, 1).to(E4M3),
                "a.weight_scale_2": torch.ones(()),
                "a.comfy_quant": torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8),
            },
            "quantised as 'nvfp4'",
        ),
        (
            {
                "a.weight": torch.zeros(4, 2, dtype=torch.uint8),
                "a.weight_scale": torch.ones(()),
                "a.comfy_quant": torch.tensor(list(b"[" * 4000), dtype=torch.uint8),
            },
            "quantised as uint8",
        ),
        ({"a.weight": torch.zeros(2, 2, dtype=torch.int8), "a.SCB": torch.ones(2)}, "int8 weights of bitsandbytes"),
    ],
)
def test_other_quantised_formats_are_named(tmp_path, tensors, words):
    with pytest.raises(UnsupportedCheckpoint, match=words):
        opened(tmp_path, tensors)


@pytest.mark.parametrize("scale", [torch.ones(3), torch.ones(1, 4), torch.ones(()).half(), torch.ones(0)], ids=str)
def test_scales_that_do_not_fit_are_told(tmp_path, scale):
    with pytest.raises(BadCheckpoint, match=r'"a\.weight_scale" does not fit "a\.weight"'):
        opened(tmp_path, {"a.weight": torch.zeros(4, 4).to(E4M3), "a.weight_scale": scale})


# Four bits


def four_bits(
    shape, *, block: int = 64, nested: bool, kind: str = "nf4", changes=None
) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors of a weight "w" with random codes and scales, and its numbers, computed one by one."""
    count = torch.Size(shape).numel()
    codes = torch.randint(16, (count + count % 2,))
    meaning = torch.randn(16)
    num_scales = -(-count // block)
    state = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": list(shape)}
    tensors = {"w": (codes[::2] * 16 + codes[1::2]).to(torch.uint8)[:, None], "w.quant_map": meaning}
    if nested:
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.0371}
        tensors["w.absmax"] = torch.randint(256, (num_scales,), dtype=torch.uint8)
        tensors["w.nested_quant_map"] = torch.randn(256)
        tensors["w.nested_absmax"] = torch.rand(-(-num_scales // 256))
        outer = [tensors["w.nested_absmax"][i // 256] for i in range(num_scales)]
        scales = tensors["w.nested_quant_map"][tensors["w.absmax"].long()] * torch.stack(outer) + 0.0371
    else:
        scales = tensors["w.absmax"] = torch.rand(num_scales)
    text = json.dumps(state | (changes or {})).encode()
    tensors[f"w{STATE}{kind}"] = torch.tensor(list(text), dtype=torch.uint8)
    numbers = meaning[codes[:count]] * scales[torch.arange(count) // block]
    return tensors, numbers.view(shape)


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize(("shape", "block"), [((5, 128), 64), ((300, 64), 64), ((4, 512), 256)])
def test_weights_of_four_bits_are_codes_times_scales_bit_for_bit(tmp_path, nested, kind, shape, block):
    tensors, numbers = four_bits(shape, block=block, nested=nested, kind=kind)
    source = opened(tmp_path, {**tensors, "w2": torch.ones(2)})
    assert set(source.keys()) == {"w", "w2"}
    packing = source.packing("w")
    assert packing is not None
    assert packing.name == kind
    assert_packed(source, "w", numbers)
    assert source.storage_bytes("w") == numbers.numel() // 2 + numbers.numel() // block * 4


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
@pytest.mark.parametrize("shape", [(5, 13), (7,), (6, 96)], ids=str)
def test_blocks_that_reach_over_two_rows_are_unpacked_as_a_whole(tmp_path, shape, nested):
    tensors, numbers = four_bits(shape, nested=nested)
    source = opened(tmp_path, tensors)
    assert source.keys() == ("w",)
    assert source.packing("w") is None
    assert torch.equal(source.read("w"), numbers)
    assert source.storage_bytes("w") == numbers.nbytes


@pytest.mark.parametrize(
    "changes",
    [
        {"blocksize": 0}, {"blocksize": 63}, {"blocksize": "64"}, {"shape": 5}, {"shape": [-5, -128]},
        {"shape": [5.0, 128]}, {"shape": [2**40, 2**40]}, {"shape": []}, {"nested_blocksize": 0},
        {"nested_offset": None}, {"shape": [5, 64]}, {"blocksize": 32}, {"nested_blocksize": 2},
        {"padding": "x" * 5000},
    ],
    ids=str,
)  # fmt: skip
def test_a_state_that_does_not_fit_is_told(tmp_path, changes):
    tensors, _ = four_bits((5, 128), nested=True, changes=changes)
    with pytest.raises(BadCheckpoint, match=r"cannot be read|impossible shape|does not fit"):
        opened(tmp_path, tensors)


@pytest.mark.parametrize("part", ["", ".absmax", ".quant_map", ".nested_quant_map"])
def test_a_part_that_is_missing_or_of_another_type_is_told(tmp_path, part):
    tensors, _ = four_bits((5, 128), nested=True)
    with pytest.raises(BadCheckpoint, match=f'"w{part}" does not fit "w"'):
        opened(tmp_path, {**tensors, f"w{part}": torch.zeros(3)})
    del tensors[f"w{part}"]
    with pytest.raises(BadCheckpoint, match=f'"w{part}" is missing'):
        opened(tmp_path, tensors)


# Networks, and damage


class Network(nn.Module):
    """One of everything that quantised files have: matrices, an odd one, and vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Linear(128, 192), Linear(192, 64, bias=False)
        self.plain = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(torch.tanh(self.second(torch.tanh(self.first(x)))))


def scaled_network() -> dict[str, Tensor]:
    tensors = {"scaled_fp8": torch.zeros(2).to(E4M3)}
    for name, tensor in Network().state_dict().items():
        is_scaled = name in ("first.weight", "second.weight")
        tensors[name] = (tensor * 50).to(E4M3) if is_scaled else tensor.half()
        if is_scaled:
            tensors[name.replace("weight", "scale_weight")] = torch.tensor(0.02)
    return tensors


def network_of_eight_bits() -> dict[str, Tensor]:
    return {name: tensor.to(E4M3) for name, tensor in Network().state_dict().items()}


def network_of_four_bits() -> dict[str, Tensor]:
    tensors = {name: tensor.bfloat16() for name, tensor in Network().state_dict().items()}
    for key in ("first.weight", "second.weight"):
        parts, _ = four_bits(tensors.pop(key).shape, nested=True)
        tensors |= {key + name.removeprefix("w"): part for name, part in parts.items()}
    return tensors


NETWORKS = {"scaled": scaled_network, "eight bits": network_of_eight_bits, "four bits": network_of_four_bits}


@torch.no_grad()
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(
    ("dtype", "widens"), [(torch.float32, True), (torch.float32, False), (torch.bfloat16, False)], ids=str
)
def test_a_network_bound_to_packed_weights_computes_as_with_their_numbers(tmp_path, kind, dtype, widens):
    source = opened(tmp_path, NETWORKS[kind]())
    expected = Network().to(dtype)
    expected.load_state_dict({key: source.read(key).to(dtype) for key in source.keys()})
    network = held_network(
        lambda: Network(), source, Target(torch.device("cpu"), dtype, widens_on_use=widens), label="network"
    )
    assert network.first.weight.dtype == network.second.weight.dtype == torch.uint8
    x = torch.randn(5, 128).to(dtype)
    if widens:  # nn.Linear does not widen
        network.plain.to(dtype)
    assert torch.equal(network(x), expected(x))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_file_with_a_flipped_bit_opens_or_is_told(tmp_path, kind):
    path = tmp_path / "flipped.safetensors"
    opened(tmp_path, NETWORKS[kind]())
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    random = torch.Generator().manual_seed(1)
    places = [int(torch.randint(header, (), generator=random)) for _ in range(250)]
    places += [int(torch.randint(header, len(content), (), generator=random)) for _ in range(50)]
    for place in places:
        bit = 1 << int(torch.randint(8, (), generator=random))
        content[place] ^= bit
        path.write_bytes(content)
        content[place] ^= bit
        try:
            source = open_weights(path)
            assert all(source.read(key).shape == source.spec(key).shape for key in source.keys())
        except (BadCheckpoint, UnsupportedCheckpoint):
            continue
