"""Upscalers on a simulated accelerator (tests/simgpu.py): tiles keep its budget, and pictures their pixels."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from backend.families.family import Machine
from backend.memory.device import DeviceFacts
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.residency import Residency
from backend.upscaling.builtin import BUILTIN
from backend.upscaling.upscaler import Upscaler, open_upscaler
from backend.weights.source import InMemory
from tests.inline_executor import InlineExecutor
from tests.simgpu import DEVICE, GPU, SimulatedTransport
from tests.upscaler_files import compact, esrgan

FULL = DtypePolicy(unet=torch.float32, text_encoder=torch.float32, autoencoder=torch.float32)
WEIGHTS = {"compact": compact(convs=2, size=0.2), "esrgan": esrgan(size=0.15)}
CARD = DeviceFacts(kind=DEVICE.type, name="simulated", total_bytes=2**30, has_bfloat16=False, has_float16=False)
HOST = DeviceFacts(kind="cpu", name="test", total_bytes=2**33, has_bfloat16=False, has_float16=False)


@pytest.fixture(autouse=True)
def card() -> Iterator[None]:
    GPU.reset()
    yield
    gc.collect()
    assert GPU.used == 0


def opened(name: str, device: DeviceFacts, residency: Residency) -> Upscaler:
    machine = Machine(device=device, policy=FULL, residency=residency)
    return open_upscaler(InMemory(WEIGHTS[name], origin=Path("tiny")), BUILTIN, machine)


@pytest.mark.parametrize(
    ("name", "budget", "is_whole"),
    [("compact", 2**21, False), ("compact", 2**26, True), ("esrgan", 9 * 2**22, False), ("esrgan", 2**26, True)],
)
def test_tiles_keep_the_budget_of_the_card(name: str, budget: int, is_whole: bool) -> None:
    image = torch.randint(0, 256, (3, 150, 260), generator=torch.Generator().manual_seed(0)).byte()
    expected = opened(name, HOST, Residency(2**30)).upscale(image)
    residency = Residency(budget, transport=SimulatedTransport(), small=256, readers=InlineExecutor())
    upscaler = opened(name, CARD, residency)
    GPU.reset(budget=budget)
    tiles: list[int] = []
    made = upscaler.upscale(image, on_tile=lambda _, every: tiles.append(every))
    assert int((made.int() - expected.int()).abs().max()) <= 1
    assert GPU.peak <= budget
    assert (len(tiles) == 1) == is_whole
    residency.drop_all()
