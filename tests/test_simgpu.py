"""The simulated accelerator itself: its numbers, bytes, clock and errors are those of a card."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.simgpu import DEVICE, GPU, Card, SimulatedTransport, shapes_only


@pytest.fixture(autouse=True)
def card():
    GPU.reset()
    yield
    gc.collect()
    assert GPU.used == 0


@torch.no_grad()
def test_numbers_are_those_of_the_host():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 8, 8), torch.randn(6, 4, 3, 3)
    expected = F.group_norm(F.conv2d(x, weight, padding=1), 2).flatten(2)
    expected = F.scaled_dot_product_attention(expected, expected, expected)
    y = F.group_norm(F.conv2d(x.to(DEVICE), weight.to(DEVICE), padding=1), 2).flatten(2)
    y = F.scaled_dot_product_attention(y, y, y)
    assert y.device == DEVICE
    assert torch.equal(y.cpu(), expected)


def test_a_module_can_be_moved_there():
    layer = nn.Linear(4, 4).requires_grad_(False)
    assert torch.equal(layer.to(DEVICE)(torch.ones(1, 4, device=DEVICE)).cpu(), layer.to("cpu")(torch.ones(1, 4)))


@pytest.mark.parametrize(
    "operation",
    [
        lambda here, there: here @ there,
        lambda here, there: F.linear(here, there),
        lambda here, there: F.conv2d(here[None, None], there[None, None]),
        lambda here, there: F.scaled_dot_product_attention(here[None], there[None], there[None]),
        lambda here, there: torch.cat([here, there]),
    ],
)
def test_mixing_devices_is_an_error(operation):
    here = torch.ones(4, 4)
    with pytest.raises(RuntimeError, match="same device"):
        operation(here, here.to(DEVICE))
    with pytest.raises(RuntimeError, match="same device"):
        operation(here.to(DEVICE), here)


def test_bytes_are_counted_in_granules_and_views_are_free():
    x = torch.empty(1000, dtype=torch.uint8, device=DEVICE)
    assert GPU.used == 1024
    view = x[10:20].view(2, 5).T
    assert GPU.used == 1024
    del x
    assert GPU.used == 1024
    del view
    assert GPU.used == 0
    assert GPU.peak == 1024


def test_more_than_the_budget_is_out_of_memory_and_takes_nothing():
    GPU.reset(budget=4096)
    x = torch.empty(3000, dtype=torch.uint8, device=DEVICE)
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 0\.00 MiB"):
        x + 1
    assert GPU.used == 3072
    x.add_(1)


def test_any_allocation_can_be_made_to_fail():
    GPU.reset(fails_at=2)
    x = torch.ones(4, device=DEVICE)
    with pytest.raises(torch.OutOfMemoryError):
        x + 1
    assert (x + 1).cpu().tolist() == [2.0] * 4


def test_kernels_and_copies_take_their_time_and_streams_run_side_by_side():
    GPU.reset(cards=(Card(flops=1e9, memory=1e12, link=1e6), Card(flops=2e9, memory=1e12, link=1e7)))
    transport = SimulatedTransport()
    x = torch.ones(100, 100, device=DEVICE)
    begin = GPU.computed_until
    x @ x
    assert GPU.computed_until[0] - begin[0] == pytest.approx(2e6 / 1e9, rel=0.01)
    assert GPU.computed_until[1] - begin[1] == pytest.approx(1e6 / 1e9, rel=0.01)
    out = transport.empty(5000)
    mark = transport.copy(transport.staging(5000), out, (0.0, 0.0))
    assert mark == pytest.approx((5e-3, 5e-4))
    now = GPU.computed_until
    transport.wait(mark)
    assert GPU.computed_until == (max(now[0], 5e-3), now[1])
    now = GPU.computed_until
    after = transport.copy(transport.staging(5000), out, transport.now())
    assert after == pytest.approx((now[0] + 5e-3, now[1] + 5e-4))


def test_reading_before_a_copy_has_ended_is_an_error():
    transport = SimulatedTransport()
    out = transport.empty(10**6)
    mark = transport.copy(transport.staging(10**6), out, transport.now())
    with pytest.raises(RuntimeError, match="a kernel would read"):
        out + 1
    transport.wait(mark)
    out + 1


def test_overwriting_what_a_kernel_still_reads_is_an_error():
    transport = SimulatedTransport()
    out, begin = transport.empty(10**6), transport.now()
    transport.wait(transport.copy(transport.staging(10**6), out, begin))
    out[:1000] + 1
    out[5000:] + 1
    transport.copy(transport.staging(1000), out[2000:3000], begin)
    with pytest.raises(RuntimeError, match="a copy would write"):
        transport.copy(transport.staging(1000), out[5000:6000], (GPU.computed_until[0] - 1e-9,))
    transport.copy(transport.staging(1000), out[5000:6000], transport.now())


@torch.no_grad()
def test_without_contents_a_network_of_any_size_has_its_bytes_and_its_time():
    with shapes_only():
        x = torch.empty(2**14, 2**14, dtype=torch.float16, device=DEVICE)
        y = x @ x
        assert y.shape == x.shape
        assert GPU.used == 2 * 2**29
        assert GPU.flops == 2 * 2**42
        del x, y
