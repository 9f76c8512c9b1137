"""Adapters on packed weights: these stay packed, and what is added is computed beside them and never rounded."""

import gc
from collections.abc import Mapping
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from backend.adapters.patched import Patched, PlacedAdapter, patched
from backend.memory.dry_run import CallCosts
from backend.memory.layouts import Target
from backend.memory.part import Part
from backend.memory.residency import Residency
from backend.nn.layers import Conv2d, Linear, SplitLinear
from backend.nn.unet import PixelLinear
from backend.weights.safetensors_file import write_safetensors
from backend.weights.source import InMemory, WeightSource
from backend.weights.views import View, Viewed
from backend.weights.weight_file import open_weights
from tests.held_networks import held_network
from tests.inline_executor import InlineExecutor
from tests.simgpu import DEVICE, GPU, SimulatedTransport
from tests.test_packed_on_device import KINDS, NUMBERS, ROWS
from tests.tiny_adapters import CONV, KOHYA, adapter, draw, lora_tensors, sd1_tensors

E4M3 = torch.float8_e4m3fn
HOST = Target(torch.device("cpu"), torch.float32)
QKV = "double_blocks.0.img_attn.qkv"
FUSED = "lora_unet_double_blocks_0_img_attn_qkv"
PARTS = [f"transformer.transformer_blocks.0.attn.to_{name}" for name in "qkv"]


@pytest.fixture(autouse=True)
def card():
    torch.manual_seed(0)
    gc.collect()
    GPU.reset()
    yield
    gc.collect()
    assert GPU.used == 0


def place(tensors: Mapping[str, Tensor], strength: float = 1.0) -> PlacedAdapter:
    return PlacedAdapter(adapter=adapter(tensors), strength=strength)


def half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.half() for name, tensor in tensors.items()}


def peft(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.replace("lora_up", "lora_B").replace("lora_down", "lora_A"): v for k, v in tensors.items()}


def flux_source(folder, kind: str) -> WeightSource:
    return Viewed(KINDS[kind](folder), {f"{QKV}.weight": View("weight")})


def plain(source: WeightSource, uses: list[PlacedAdapter], key: str) -> Tensor:
    """The weight with all that is added, never rounded."""
    wide = InMemory({key: unpacked(source, key)})
    return patched(wide, uses, "flux").read(key)


def unpacked(source: WeightSource, key: str) -> Tensor:
    packing = source.packing(key)
    assert packing is not None
    return packing.unpack(source.read_storage(key).view(-1, packing.row_bytes), torch.float32)


def one_layer(source: WeightSource, layer: nn.Module, key: str, target: Target = HOST) -> nn.Sequential:
    views = {f"0.{name}": View(f"{key}.{name}") for name, _ in layer.named_parameters()}
    return held_network(lambda: nn.Sequential(layer.to("meta")), Viewed(source, views), target)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_gives_what_it_would_with_unpacked_weights(tmp_path, kind):
    base = flux_source(tmp_path, kind)
    uses = [place(half(lora_tensors({FUSED: (ROWS, NUMBERS)}, rank=4)), 0.7)]
    model = patched(base, uses, "flux")
    layer = one_layer(model, Linear(NUMBERS, ROWS, bias=False), QKV)
    x, weight = torch.randn(2, 3, NUMBERS), plain(base, uses, f"{QKV}.weight")
    torch.testing.assert_close(layer(x), nn.functional.linear(x, weight), rtol=1e-4, atol=1e-5 * float(weight.norm()))
    assert layer[0].weight.dtype == torch.uint8
    assert torch.equal(layer[0].weight, base.read_storage(f"{QKV}.weight").view(ROWS, -1))


@torch.no_grad()
def test_parts_of_fused_weights_take_no_more_than_their_own_matrices(tmp_path):
    base, third = flux_source(tmp_path, "fp8"), ROWS // 3
    fused = half(lora_tensors({FUSED: (ROWS, NUMBERS)}, rank=4, seed=1))
    parts = half(peft(lora_tensors(dict.fromkeys(PARTS, (third, NUMBERS)), rank=3, alpha=None)))
    uses = [place(fused, 0.5), place(parts, -1.5), place(fused, 0.25)]
    model = patched(base, uses, "flux")
    expected = plain(base, uses, f"{QKV}.weight")
    x = torch.randn(5, NUMBERS)
    views = {"0.weight": View(f"{QKV}.weight")}
    split = held_network(
        lambda: nn.Sequential(without_bias(SplitLinear(NUMBERS, [40, 56]))), Viewed(model, views), HOST
    )
    for begin, end, found in ((0, 40, split(x)[0]), (40, 96, split(x)[1])):
        torch.testing.assert_close(found, x @ expected[begin:end].mT, rtol=1e-4, atol=1e-3)
    queries = {"0.weight": View(f"{QKV}.weight", rows=(20, 70))}
    some = held_network(lambda: nn.Sequential(Linear(NUMBERS, 50, bias=False)), Viewed(model, queries), HOST)
    torch.testing.assert_close(some(x), x @ expected[20:70].mT, rtol=1e-4, atol=1e-3)
    packing = model.packing(f"{QKV}.weight")
    assert packing is not None
    assert packing.low_rank is not None
    numbers = sum(t.numel() for t in (*fused.values(), *parts.values(), *fused.values()))
    assert packing.low_rank.num_bytes <= 2 * numbers + 1024


def without_bias(layer: nn.Linear) -> nn.Linear:
    layer.bias = None  # pyright: ignore[reportAttributeAccessIssue] - a layer may have none
    return layer


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("has_core", [False, True], ids=["product", "core"])
@torch.no_grad()
def test_convolutions(layout, has_core, tmp_path):
    base = eight_bits(tmp_path)
    lora = lora_tensors({KOHYA[CONV]: (16, 16, 3, 3)}, rank=2)
    if has_core:
        down = lora.pop(f"{KOHYA[CONV]}.lora_down.weight")
        lora[f"{KOHYA[CONV]}.lora_mid.weight"] = draw(2, 2, 3, 3, seed=9)
        lora[f"{KOHYA[CONV]}.lora_down.weight"] = down[:, :, :1, :1].contiguous()
    model = patched(base, [place(lora, 0.8)], "sd1")
    layer = one_layer(model, Conv2d(16, 16, 3, stride=2, padding=1), CONV)
    x = torch.randn(2, 16, 9, 11).contiguous(memory_format=layout)
    whole = patched(wide(base), [place(lora, 0.8)], "sd1")
    expected = nn.functional.conv2d(x, whole.read(f"{CONV}.weight"), whole.read(f"{CONV}.bias"), 2, 1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    assert layer[0].weight.dtype == torch.uint8


@torch.no_grad()
def test_convolutions_of_one_pixel_stay_packed_for_tokens(tmp_path):
    key, name = "model.diffusion_model.input_blocks.1.1.proj_in", "lora_unet_down_blocks_0_attentions_0_proj_in"
    tensors = {**sd1_tensors(), f"{key}.weight": draw(64, 64, 1, 1), f"{key}.bias": draw(64)}
    base = eight_bits(tmp_path, tensors)
    lora = lora_tensors({name: (64, 64, 1, 1)}, rank=2)
    model = patched(base, [place(lora)], "sd1")
    layer = one_layer(model, PixelLinear(64, 64), key)
    x, whole = torch.randn(2, 5, 64), patched(wide(base), [place(lora)], "sd1")
    expected = nn.functional.linear(x, whole.read(f"{key}.weight").flatten(1), whole.read(f"{key}.bias"))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    assert layer[0].weight.dtype == torch.uint8


def eight_bits(folder, tensors: Mapping[str, Tensor] | None = None) -> WeightSource:
    """A tiny SD 1.x file whose matrices and kernels have eight bits."""
    tensors = tensors or {**sd1_tensors(), f"{CONV}.weight": draw(16, 16, 3, 3), f"{CONV}.bias": draw(16)}
    narrow = {key: t.to(E4M3) if t.ndim > 1 else t.float() for key, t in tensors.items()}
    write_safetensors(folder / "narrow", narrow)
    return open_weights(folder / "narrow")


def wide(source: WeightSource) -> WeightSource:
    return InMemory({key: source.read(key).float() for key in source.keys()})


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_what_is_added_survives_in_the_type_that_is_computed_with(tmp_path, dtype):
    """Of a change a hundred times smaller than the weight, eight bits keep a third."""
    base = flux_source(tmp_path, "fp8")
    lora = half({k: v * 0.05 for k, v in lora_tensors({FUSED: (ROWS, NUMBERS)}, rank=4, alpha=None).items()})
    layer = one_layer(
        patched(base, [place(lora)], "flux"), Linear(NUMBERS, ROWS, bias=False), QKV, Target(HOST.device, dtype)
    )
    weight, x = unpacked(base, f"{QKV}.weight"), torch.randn(64, NUMBERS)
    delta = plain(base, [place(lora)], f"{QKV}.weight") - weight
    assert float(delta.norm() / weight.norm()) < 0.02
    exact = x @ delta.mT
    baked = x @ ((weight + delta).to(E4M3).float() - weight).mT
    assert survives(baked, exact) < 0.6
    found = layer(x.to(dtype)).float() - x.to(dtype).float() @ weight.mT
    assert survives(found, exact) == pytest.approx(1, abs=0.02)


def survives(found: Tensor, wanted: Tensor) -> float:
    """The part of a change that points in its direction."""
    return float((found * wanted).sum() / (wanted * wanted).sum())


@torch.no_grad()
def test_tiny_factors_do_not_underflow(tmp_path):
    """In half precision numbers below 6e-8 are none."""
    base = flux_source(tmp_path, "fp8")
    lora = peft(lora_tensors({FUSED: (ROWS, NUMBERS)}, rank=4, alpha=None))
    up = next(key for key in lora if "lora_B" in key)
    small = {key: tensor * (2.0**-30 if key == up else 2.0**30) for key, tensor in lora.items()}
    x = torch.randn(3, NUMBERS, dtype=torch.float16)
    found, expected = (
        one_layer(
            patched(base, [place(t)], "flux"),
            Linear(NUMBERS, ROWS, bias=False),
            QKV,
            Target(HOST.device, torch.float16),
        )(x)
        for t in (small, lora)
    )
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("kind", ["fp8", "scaled fp8", "nf4", "Q8_0", "Q4_K"])
def test_memory_grows_by_no_more_than_the_adapter(tmp_path, kind):
    base = flux_source(tmp_path, kind)
    lora = half(lora_tensors({FUSED: (ROWS, NUMBERS)}, rank=4))
    sizes = [
        sum(leaf.num_bytes for leaf in Residency(2**30).sizes(part_of(source)))
        for source in (base, patched(base, [place(lora)], "flux"))
    ]
    assert sizes[1] - sizes[0] <= adapter(lora).num_bytes + 1024


def part_of(source: WeightSource, target: Target = HOST, key: str = "one") -> Part:
    views = {"0.weight": View(f"{QKV}.weight")}
    return Part(key, "layer", Viewed(source, views), target, lambda: nn.Sequential(Linear(NUMBERS, ROWS, bias=False)))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["fp8", "fp8 scaled by row", "nf4", "Q4_K"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_a_device(tmp_path, kind, dtype):
    base = flux_source(tmp_path, kind)
    uses = [place(half(lora_tensors({FUSED: (ROWS, NUMBERS)}, rank=4)), 0.1)]
    model = patched(base, uses, "flux")
    x = torch.randn(3, NUMBERS).to(dtype)
    layer = Residency(2**30, transport=SimulatedTransport(), readers=InlineExecutor()).get(
        part_of(model, Target(DEVICE, dtype))
    )
    assert GPU.used < base.storage_bytes(f"{QKV}.weight") + uses[0].adapter.num_bytes + 2048
    on_host = held_network(
        lambda: nn.Sequential(Linear(NUMBERS, ROWS, bias=False)), part_of(model).source, Target(HOST.device, dtype)
    )
    torch.testing.assert_close(layer(x.to(DEVICE)).cpu(), on_host(x), rtol=1e-2, atol=1e-1)


@torch.no_grad()
def test_layers_that_come_and_go_bring_their_products(tmp_path):
    base = flux_source(tmp_path, "fp8")
    uses = [place(half(lora_tensors({FUSED: (ROWS, NUMBERS)}, rank=4)), 0.1)]
    views = {f"{n}.weight": View(f"{QKV}.weight", rows=(0, 64)) for n in range(6)}
    source = Viewed(patched(base, uses, "flux"), views)

    def build() -> nn.Module:
        return nn.ModuleList([Linear(NUMBERS, 64, bias=False) for _ in range(6)])

    budget = 3 * 64 * (NUMBERS + 64)
    residency = Residency(budget, transport=SimulatedTransport(), host_budget=2**20, small=0, readers=InlineExecutor())
    network = cast(nn.ModuleList, residency.get(Part("six", "six", source, Target(DEVICE, torch.float32), build)))
    x = torch.randn(3, NUMBERS)
    expected = x @ plain(base, uses, f"{QKV}.weight")[:64].mT
    for _ in range(3):
        for layer in network:
            torch.testing.assert_close(layer(x.to(DEVICE)).cpu(), expected, rtol=1e-4, atol=1e-3)
    assert GPU.used <= budget


def test_a_strength_changes_the_layer_and_none_takes_it_away(tmp_path):
    base = flux_source(tmp_path, "fp8")
    lora, key = half(lora_tensors({FUSED: (ROWS, NUMBERS)}, rank=4)), f"{QKV}.weight"
    some, others, none = (patched(base, [place(lora, s)], "flux") for s in (0.8, 0.7, 0.0))
    assert len({base.identity(key), some.identity(key), others.identity(key)}) == 3
    assert none is base
    assert some.identity(key) == patched(base, [place(lora, 0.8)], "flux").identity(key)


def test_what_a_call_takes_is_found_anew_for_other_ranks_and_not_for_other_strengths(tmp_path):
    """The products' narrow results are memory that it takes, too; matrices are weights and counted as such."""
    base, costs, calls = flux_source(tmp_path, "fp8"), CallCosts(), []

    def call(network: nn.Module, device: torch.device) -> object:
        calls.append(1)
        return network(torch.empty(512, NUMBERS, device=device))

    def peak(*uses: PlacedAdapter) -> int:
        source = Viewed(patched(base, list(uses), "flux"), {"0.weight": View(f"{QKV}.weight")})
        build = lambda: nn.Sequential(Linear(NUMBERS, ROWS, bias=False))  # noqa: E731 - built anew on each call
        return costs.of(Part("network", "network", source, HOST, build), "512 tokens", call).peak_bytes

    low, high = (half(lora_tensors({FUSED: (ROWS, NUMBERS)}, rank=rank)) for rank in (1, 16))
    assert peak() <= peak(place(low)) < peak(place(high))
    assert len(calls) == 3
    assert peak(place(high, 0.3)) == peak(place(high))
    assert len(calls) == 3


def test_what_is_no_product_is_held_wide_and_said(tmp_path):
    base = flux_source(tmp_path, "fp8")
    full = {f"{FUSED}.diff": draw(ROWS, NUMBERS).half()}
    model = patched(base, [place(full), place(half(lora_tensors({FUSED: (ROWS, NUMBERS)})))], "flux")
    assert isinstance(model, Patched)
    assert model.widened == (f"{QKV}.weight",)
    assert model.packing(f"{QKV}.weight") is None
    assert model.bytes_of_widening == 2 * ROWS * NUMBERS - base.storage_bytes(f"{QKV}.weight")
    products = patched(base, [place(half(lora_tensors({FUSED: (ROWS, NUMBERS)})))], "flux")
    assert isinstance(products, Patched)
    assert products.widened == ()


def test_numbers_are_complete_where_they_are_asked_for(tmp_path):
    """Sources that compute with a weight read numbers, and never its bytes without what is added."""
    base = flux_source(tmp_path, "fp8")
    uses = [place(half(lora_tensors({FUSED: (ROWS, NUMBERS)}, rank=4)))]
    model = patched(base, uses, "flux")
    expected = plain(base, uses, f"{QKV}.weight")
    torch.testing.assert_close(model.read(f"{QKV}.weight").float(), expected, rtol=1e-3, atol=1e-3)
    turned = Viewed(model, {"turned": View(f"{QKV}.weight", transposed=True)})
    torch.testing.assert_close(turned.read("turned").float(), expected.mT, rtol=1e-3, atol=1e-3)
    twice = patched(model, uses, "flux")
    once_more = plain(base, uses * 2, f"{QKV}.weight")
    torch.testing.assert_close(twice.read(f"{QKV}.weight").float(), once_more, rtol=1e-2, atol=1e-2)
    layer = one_layer(twice, Linear(NUMBERS, ROWS, bias=False), QKV)
    x = torch.randn(3, NUMBERS)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), x @ once_more.mT, rtol=1e-4, atol=1e-2)
