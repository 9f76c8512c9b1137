"""Networks on a simulated accelerator (tests/simgpu.py): its budget is kept, and so are numbers and time."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backend.errors import OutOfMemory
from backend.memory.layouts import Target
from backend.memory.part import Part
from backend.memory.residency import Residency
from backend.memory.retrying import retrying, wanted_bytes
from backend.nn import flux, mmdit
from backend.nn.flux import Flux, FluxConfig, token_rotations
from backend.nn.mmdit import MMDiT, MMDiTConfig
from backend.nn.unet import UNet, UNetConfig, used_once
from backend.weights.source import InMemory, TensorSpec
from tests.inline_executor import InlineExecutor
from tests.simgpu import DEVICE, GPU, Card, SimulatedTransport, shapes_only

CONFIG = UNetConfig(model_channels=32, channel_mult=(1, 2), transformer_depth=(1, 1), context_dim=16, num_heads=4)
FLOAT32 = Target(DEVICE, torch.float32)
SMALL = 256


@pytest.fixture(autouse=True)
def card():
    GPU.reset()
    yield
    gc.collect()
    assert GPU.used == 0


def residency(budget: int, *, host_budget: int = 2**30, small: int = SMALL) -> Residency:
    return Residency(
        budget,
        transport=SimulatedTransport(),
        host_budget=host_budget,
        small=small,
        readers=InlineExecutor(),
    )


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: tensor.detach() for name, tensor in UNet(CONFIG).state_dict().items()}


def unet(weights: dict[str, Tensor], target: Target = FLOAT32) -> Part:
    return Part("unet", "U-Net", InMemory(weights), target, lambda: UNet(CONFIG))


def inputs(device: torch.device = DEVICE) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, context = (torch.randn(shape, generator=generator) for shape in ((2, 4, 8, 8), (2, 7, 16)))
    return x.to(device), torch.tensor([10.0, 500.0]).to(device), context.to(device)


@torch.no_grad()
def run(module: nn.Module, *given: Tensor) -> Tensor:
    return module(*given).cpu()


@pytest.fixture(scope="module")
def reference(weights) -> tuple[Tensor, int, int]:
    """What the network computes with everything on the card; bytes of its weights, and of what a call takes beside."""
    GPU.reset()
    everything = residency(2**40)
    module = everything.get(unet(weights))
    given = inputs()
    before = GPU.used
    GPU.reset()
    found = run(module, *given), everything.used(), GPU.peak - before
    del everything, module, given
    gc.collect()
    return found


@pytest.mark.parametrize("host_budget", [0, 2**30], ids=["from the file", "from the host's memory"])
def test_a_network_computes_the_same_bits_and_keeps_its_budget(weights, reference, host_budget):
    expected, size, activations = reference
    before = {name: tensor.clone() for name, tensor in weights.items()}
    given = inputs()
    for percent in (10, 50, 100):
        tight = residency(size * percent // 100 + activations, host_budget=host_budget)
        GPU.reset(budget=tight.budget + sum(t.nbytes for t in given) + 4 * 512)
        module = tight.get(unet(weights), working_bytes=activations)
        for _step in range(2):
            assert torch.equal(run(module, *given), expected), percent
        [held] = tight.report()
        assert held.device_bytes <= size * percent // 100
        assert (held.streamed_bytes == 0) == (percent == 100)
        assert (held.host_bytes > 0) == (host_budget > 0 and percent < 100)
        assert GPU.peak <= GPU.budget
        del module, tight
        gc.collect()
    assert all(torch.equal(before[name], tensor) for name, tensor in weights.items())


# Full size, without contents

CARDS = {
    "3060": Card(flops=15e12, memory=300e9, link=13e9),
    "4090": Card(flops=99e12, memory=900e9, link=25e9),
    "5090": Card(flops=200e12, memory=1700e9, link=50e9),
}
RESIDENT = 2_000_000_000
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
    """Weights of a network of which only the shapes are known."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module.state_dict())

    def spec(self, key: str) -> TensorSpec:
        return TensorSpec(super().spec(key).shape, torch.float16)

    def read_into(self, key: str, out: Tensor) -> None:
        """There is nothing to read."""


def half(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float16, device=DEVICE)


def _part(build: Callable[[], nn.Module], is_once: Callable[[str], bool]) -> Part:
    with torch.device("meta"):
        module = build()
    layers = dict.fromkeys(name.rpartition(".")[0] for name in module.state_dict())
    target = Target(DEVICE, torch.float16)
    return Part("full", "network", Shapes(module), target, build, once=[name for name in layers if is_once(name)])


@dataclass(frozen=True)
class FullSize:
    """A network at 1024 x 1024 pixels. begin: what is computed once. step: one step, given that."""

    part: Part
    begin: Callable[[Any], Any]
    step: Callable[[Any, Any], Tensor]


def sdxl() -> FullSize:
    return FullSize(
        _part(lambda: UNet(SDXL), lambda name: name in used_once([f"{name}.weight"])),
        lambda unet: unet.keys_values(half(2, 77, 2048)),
        lambda unet, context: unet(half(2, 4, 128, 128), half(2), context, half(2, 2816)),
    )


def sd35_medium() -> FullSize:
    config = MMDiTConfig(dual_blocks=13, has_query_norm=True)
    return FullSize(
        _part(lambda: MMDiT(config), mmdit.is_used_once),
        lambda net: (net.embed_context(half(2, 333, 4096)), net.modulation(half(56), half(56, 2048))),
        lambda net, once: net(half(2, 16, 128, 128), once[0], once[1][:2], half(1, 4096, 1536)),
    )


def flux_dev() -> FullSize:
    rotations = token_rotations(FluxConfig(), 512, 64, 64).to(DEVICE)
    return FullSize(
        _part(lambda: Flux(FluxConfig()), flux.is_used_once),
        lambda net: (net.embed_context(half(1, 512, 4096)), net.modulation(half(28), half(28, 768), half(28))),
        lambda net, once: net(half(1, 16, 128, 128), once[0], once[1][:1], rotations),
    )


@pytest.mark.parametrize("full_size", [sdxl, sd35_medium, flux_dev])
@torch.no_grad()
def test_with_2_gb_of_weights_on_the_card_a_step_takes_no_longer_than_computing_or_copying(full_size):
    with shapes_only():
        GPU.reset(cards=tuple(CARDS.values()))
        network = full_size()
        tight = residency(RESIDENT, host_budget=2**40, small=64 * 2**10)
        module = tight.get(network.part)
        once = network.begin(module)
        for _warming_up in range(2):
            network.step(module, once)
        begin, worked, copied = GPU.computed_until, GPU.worked, GPU.copied
        network.step(module, once)
        for name, index in zip(CARDS, range(3), strict=True):
            seconds = GPU.computed_until[index] - begin[index]
            computing, copying = GPU.worked[index] - worked[index], (GPU.copied - copied) / CARDS[name].link
            assert seconds <= 1.1 * max(computing, copying), name
        [held] = tight.report()
        assert held.device_bytes <= RESIDENT
        assert held.streamed_bytes >= held.total_bytes - RESIDENT
        del module, tight, once


# Out of memory


@torch.no_grad()
def test_a_job_gives_the_same_bits_whichever_allocation_fails():
    """A step of a network that comes and goes, with its inputs and all."""
    config = UNetConfig(model_channels=32, channel_mult=(1,), num_res_blocks=1, transformer_depth=(0,), middle_depth=0)
    torch.manual_seed(0)
    source = InMemory(UNet(config).requires_grad_(False).state_dict())
    part = Part("smallest", "U-Net", source, FLOAT32, lambda: UNet(config))

    def job(budget: int, fails_at: int | None = None) -> tuple[Tensor, int]:
        gc.collect()
        assert GPU.used == 0
        tight = residency(budget)
        GPU.reset(budget=budget + 2**16, fails_at=fails_at)
        given = retrying(inputs, tight)
        module = retrying(lambda: tight.get(part, working_bytes=2**17), tight)
        out = retrying(lambda: run(module, *given), tight)
        assert GPU.peak <= GPU.budget
        return out, GPU.allocations

    expected, _ = job(2**40)
    out, count = job(450_000)
    assert torch.equal(out, expected)
    assert count > 80
    for fails_at in (*range(1, 6), *range(6, count + 1, 7)):
        out, _ = job(450_000, fails_at)
        assert torch.equal(out, expected), fails_at


@torch.no_grad()
def test_memory_that_never_suffices_is_told_and_the_state_is_as_before(weights, reference):
    _, size, activations = reference
    tight = residency(size)
    module, given = tight.get(unet(weights)), inputs()
    GPU.reset(budget=GPU.used + 1024)
    attempts = []

    def step() -> Tensor:
        attempts.append(tight.budget)
        GPU.budget = GPU.used + activations // 16
        return run(module, *given)

    with pytest.raises(OutOfMemory, match=r"not enough memory for this job, .* Make the picture or the batch smaller"):
        retrying(step, tight)
    assert len(attempts) == 5
    assert attempts[0] == size
    assert attempts[4] < size / 3
    GPU.reset()
    tight.begin_job()
    assert tight.budget == size
    assert torch.equal(run(tight.get(unet(weights)), *given), reference[0])
    assert tight.report()[0].streamed_bytes == 0


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has", 3 * 2**29),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes.", 4096),
        ("something else", None),
    ],
)
def test_how_much_was_missing_is_read_from_what_pytorch_says(text, size):
    assert wanted_bytes(text) == size


def test_other_failures_are_not_tried_again():
    attempts = []

    def fail() -> None:
        attempts.append(1)
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        retrying(fail, residency(100))
    assert attempts == [1]


class Merged(InMemory):
    """Differs from others in the weights of one layer."""

    def __init__(self, tensors: dict[str, Tensor], changed: str, factor: float) -> None:
        super().__init__({key: t * factor if key.startswith(changed) else t for key, t in tensors.items()})
        self._name, self._changed = f"{factor}", changed
        self.read_keys: list[str] = []

    def identity(self, key: str) -> str:
        return f"{key} {self._name if key.startswith(self._changed) else ''}"

    def read_into(self, key: str, out: Tensor) -> None:
        self.read_keys.append(key)
        super().read_into(key, out)


@pytest.mark.parametrize("share", [2.0, 0.6])
def test_of_a_network_that_differs_in_one_layer_only_that_one_is_read_from_its_source(weights, reference, share):
    """Whether everything stays on the card or layers come and go through the cache on the host."""
    _, size, working = reference
    changed = "middle_block.0.in_layers.2"
    weights_held = residency(int(size * share) + working, host_budget=2**30)
    sources = [Merged(weights, changed, factor) for factor in (1.0, 1.5)]
    given = inputs()
    GPU.reset(budget=weights_held.budget + sum(t.nbytes for t in given) + 4 * 512)
    for number, source in enumerate(sources):
        module = weights_held.get(Part(f"{number}", "U-Net", source, FLOAT32, lambda: UNet(CONFIG)), working)
        found = run(module, *given)
        assert GPU.peak <= GPU.budget
    GPU.reset()
    if share > 1:
        assert {key.rpartition(".")[0] for key in sources[1].read_keys} == {changed}
    else:  # those that never were in the cache, because they stay on the card, are taken over as well
        assert len(set(sources[1].read_keys)) <= 4
    alone = residency(2**40)
    assert torch.equal(found, run(alone.get(unet({key: sources[1].read(key) for key in weights})), *given))
