"""Networks on a simulated accelerator (tests/simgpu.py): its budget is kept, and so are numbers and time."""

import gc

import pytest
import torch
from torch import Tensor, nn

from backend.memory.binding import Target
from backend.memory.part import Part
from backend.memory.residency import Residency
from backend.nn.unet import UNet, UNetConfig
from backend.weights.source import InMemory
from tests.inline_executor import InlineExecutor
from tests.simgpu import DEVICE, GPU, SimulatedTransport

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


def sizes(part: Part) -> tuple[int, int]:
    """Bytes of the weights, and of what a call needs beside them."""
    everything = residency(2**40)
    module = everything.get(part)
    given = inputs()
    weights = GPU.used
    GPU.reset()
    run(module, *given)
    return everything.used(), GPU.peak - weights


@pytest.mark.parametrize("percent", [10, 25, 50, 75, 100])
@pytest.mark.parametrize("host_budget", [0, 2**30], ids=["from the file", "from the host's memory"])
def test_a_network_computes_the_same_bits_and_keeps_its_budget(weights, percent, host_budget):
    part = unet(weights)
    expected = run(residency(2**40).get(part), *inputs())
    size, activations = sizes(part)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    given = inputs()
    tight = residency(size * percent // 100 + activations, host_budget=host_budget)
    GPU.reset(budget=tight.budget + sum(t.nbytes for t in given) + 4 * 512)
    module = tight.get(part, working_bytes=activations)
    for _step in range(3):
        assert torch.equal(run(module, *given), expected)
    [held] = tight.report()
    assert held.device_bytes <= size * percent // 100
    assert (held.streamed_bytes == 0) == (percent == 100)
    if percent < 100:
        assert (held.host_bytes > 0) == (host_budget > 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights.items())
