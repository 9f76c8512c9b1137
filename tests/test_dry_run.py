"""What a call takes is found without memory, exactly; and plans are made from it."""

import gc
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from backend.errors import OutOfMemory
from backend.memory.dry_run import CallCosts, dry_run
from backend.memory.layouts import Target
from backend.memory.part import Part
from backend.memory.placement import LeafSize
from backend.memory.planner import plan_decoder, plan_denoiser, will_it_fit, working_bytes
from backend.nn.autoencoder import Autoencoder, AutoencoderConfig
from backend.nn.layers import Linear
from backend.nn.unet import UNet, UNetConfig
from backend.weights.safetensors_file import write_safetensors
from backend.weights.source import InMemory, TensorSpec
from backend.weights.weight_file import open_weights

GPU, CPU = torch.device("cuda"), torch.device("cpu")
MIB = 2**20
SDXL = UNetConfig(
    channel_mult=(1, 2, 4),
    transformer_depth=(0, 2, 10),
    middle_depth=10,
    context_dim=2048,
    num_heads=None,
    head_dim=64,
    linear_projections=True,
    adm_in_channels=2816,
)


class Shapes(InMemory):
    """Weights of which only the shapes are known."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(module.state_dict())
        self.dtype = dtype

    def spec(self, key: str) -> TensorSpec:
        return TensorSpec(super().spec(key).shape, self.dtype)


def part(build, target: Target, stored: torch.dtype = torch.float16) -> Part:
    with torch.device("meta"):
        return Part("key", "network", Shapes(build(), stored), target, build)


def decode(side: int, dtype: torch.dtype):
    def call(module: nn.Module, device: torch.device) -> Tensor:
        assert isinstance(module, Autoencoder)
        return module.decode(torch.empty(1, 4, side, side, dtype=dtype, device=device))

    return call


def guided_step(side: int, dtype: torch.dtype):
    def call(module: nn.Module, device: torch.device) -> Tensor:
        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        return module(empty(2, 4, side, side), torch.empty(2, device=device), empty(2, 77, 2048), empty(2, 2816))

    return call


def test_published_figures_of_networks_of_full_size_are_found():
    """SDXL at 1024 x 1024 with guidance 316 MiB, decoding 1.5 KiB a pixel."""
    half = Target(GPU, torch.float16)
    step = dry_run(part(lambda: UNet(SDXL), half), guided_step(128, torch.float16))
    assert round(step.peak_bytes / MIB) == 316
    assert step.flops / 1e12 == pytest.approx(13.52, abs=0.01)
    decoding = dry_run(part(lambda: Autoencoder(AutoencoderConfig()), half), decode(128, torch.float16))
    assert round(decoding.peak_bytes / MIB) == 1536


def test_the_order_in_which_layers_run_is_found():
    class Backwards(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for layer in reversed(self):
                x = layer(x)
            return x

    cost = dry_run(
        part(lambda: Backwards(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), Target(GPU, torch.float16)),
        lambda module, device: module(torch.empty(3, 4, dtype=torch.float16, device=device)),
    )
    assert cost.layers == ("2", "0")
    assert cost.flops == 2 * 2 * 3 * 4 * 4


class Ten(nn.Linear):
    """Holds ten times its output, of which it gives one back."""

    def forward(self, input: Tensor) -> Tensor:
        kept = [super(Ten, self).forward(input) for _ in range(10)]
        views = [tensor.view(-1) for tensor in kept]
        del kept
        return views[0] + views[9]


@pytest.mark.parametrize("device", [GPU, CPU], ids=str)
def test_tensors_count_while_they_live_and_views_do_not(device):
    cost = dry_run(
        part(lambda: Ten(8, 8, bias=False), Target(device, torch.float32), torch.float32),
        lambda module, device: module(torch.empty(100, 8, device=device)),
    )
    assert cost.peak_bytes == 100 * 8 * 4 * 12  # the input, the ten, their sum


@torch.no_grad()
@pytest.mark.parametrize("device", [GPU, CPU], ids=str)
def test_packed_weights_count_as_what_they_become(tmp_path, device):
    layer = nn.Sequential(Linear(64, 32, bias=False))
    weights = {key: value.detach().to(torch.float8_e4m3fn) for key, value in layer.state_dict().items()}
    write_safetensors(tmp_path / "fp8.safetensors", weights)
    source = open_weights(tmp_path / "fp8.safetensors")
    assert source.packing("0.weight") is not None
    target = Target(device, torch.float32, widens_on_use=device == CPU)
    packed = Part("key", "label", source, target, lambda: nn.Sequential(Linear(64, 32, bias=False)))
    cost = dry_run(packed, lambda module, device: module(torch.empty(1, 64, device=device)))
    assert cost.peak_bytes == 4 * (64 + 64 * 32 + 32)  # the input, the weight in float32, the output


def test_on_the_host_it_agrees_with_what_the_allocator_gives():
    """The peak of a step, measured by the profiler of PyTorch's allocator on the real network."""
    config = UNetConfig(model_channels=32, channel_mult=(1, 2), transformer_depth=(1, 1), context_dim=16, num_heads=4)
    torch.manual_seed(0)
    network = UNet(config).eval()
    source = InMemory(network.requires_grad_(False).state_dict())
    held = Part("key", "network", source, Target(CPU, torch.float32, widens_on_use=True), lambda: UNet(config))

    def call(module: nn.Module, device: torch.device) -> Tensor:
        x = torch.zeros(2, 4, 32, 32, device=device)
        return module(x, torch.zeros(2, device=device), torch.zeros(2, 7, 16, device=device))

    call(network, CPU)
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call(network, CPU)
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    found = dry_run(held, call).peak_bytes
    assert found <= peak * 1.02
    assert found >= peak * 0.8  # kernels take scratch memory of their own on top


def test_costs_are_remembered_by_what_they_depend_on(tmp_path):
    file, calls = tmp_path / "costs.json", []

    def call(module: nn.Module, device: torch.device) -> Tensor:
        calls.append(1)
        return module(torch.empty(3, 4, dtype=torch.float16, device=device))

    half, full = Target(GPU, torch.float16), Target(CPU, torch.float32)
    one, other = part(lambda: nn.Linear(4, 4), half), part(lambda: nn.Linear(4, 8), half)
    first = CallCosts(file).of(one, "3", call)
    again = CallCosts(file)
    assert again.of(one, "3", call) == first
    assert len(calls) == 1
    again.of(one, "5", call)
    again.of(other, "3", call)
    again.of(part(lambda: nn.Linear(4, 4), Target(CPU, torch.float16)), "3", call)
    assert len(calls) == 4
    assert full != half
    assert len(json.loads(file.read_text())) == 4


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": {"peak_bytes": "x"}}', '{"a": {"flops": 1}}'])
def test_a_damaged_file_of_costs_is_made_anew(tmp_path, content, caplog):
    file = tmp_path / "costs.json"
    file.write_text(content)
    costs = CallCosts(file)
    assert "damaged" in caplog.text
    costs.of(
        part(lambda: nn.Linear(4, 4), Target(GPU, torch.float16)),
        "3",
        lambda module, device: module(torch.empty(3, 4, dtype=torch.float16, device=device)),
    )
    assert len(json.loads(file.read_text())) == 1


def test_costs_that_cannot_be_written_are_remembered_all_the_same(tmp_path: Path, caplog):
    (tmp_path / "file").write_text("no folder")
    costs = CallCosts(tmp_path / "file" / "costs.json")
    calls = []

    def call(module: nn.Module, device: torch.device) -> None:
        calls.append(1)

    for _ in range(2):
        costs.of(part(lambda: nn.Linear(4, 4), Target(GPU, torch.float16)), "", call)
    assert len(calls) == 1
    assert "not remembered" in caplog.text


# Plans

LEAVES = [LeafSize(name=str(index), num_bytes=10 * MIB) for index in range(40)]


def test_guidance_is_one_batch_unless_that_alone_is_too_large():
    for budget, is_batched in ((900, True), (500, True), (240, True), (170, False)):
        plan = plan_denoiser(
            LEAVES, budget * MIB, batched_peak=200 * MIB, single_peak=100 * MIB, keeps_once=True, title="U-Net of x"
        )
        assert plan.is_batched == is_batched
        assert plan.placement.num_bytes + plan.working_bytes <= budget * MIB
    assert plan.text == (
        "U-Net of x: 30 MiB of 400 MiB resident, 370 MiB streamed, 110 MiB to work with, cond and uncond one after the "
        "other"
    )
    with pytest.raises(OutOfMemory, match="U-Net of x needs 10 MiB at the least"):
        plan_denoiser(LEAVES, 100 * MIB, batched_peak=2**30, single_peak=95 * MIB, keeps_once=True, title="U-Net of x")


def test_a_picture_is_decoded_in_the_fewest_tiles_that_fit():
    peaks = {1: 1000 * MIB, 4: 300 * MIB, 9: 150 * MIB}
    found = [
        plan_decoder(LEAVES, budget * MIB, peaks=peaks, keeps_once=True, title="autoencoder").tiles
        for budget in (2000, 1200, 1000, 400, 200)
    ]
    assert found == [1, 1, 4, 4, 9]
    with pytest.raises(OutOfMemory):
        plan_decoder(LEAVES, 100 * MIB, peaks=peaks, keeps_once=True, title="autoencoder")


def test_the_user_is_told_whether_it_fits():
    def plan(budget: int):
        return plan_denoiser(
            LEAVES, budget * MIB, batched_peak=100 * MIB, single_peak=50 * MIB, keeps_once=True, title="U-Net of x"
        )

    assert will_it_fit([plan(600)]) == "Fits: it takes up to 510 MiB."
    assert will_it_fit([plan(600), plan(300)]) == (
        "Runs with less memory than the model has: U-Net of x: 140 MiB of 400 MiB resident, 260 MiB streamed, 110 MiB "
        "to work with."
    )
    assert working_bytes(100) == 111
