"""Another strength of an adapter: what differs takes the memory of what it replaces, from one job to the next."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from backend.memory.layouts import Target
from backend.memory.part import Part
from backend.memory.residency import Residency
from backend.weights.single_threads import single_threaded_pool
from backend.weights.source import InMemory

LAYERS = 4
LEAF = 16 * 16 * 4


class Strength(InMemory):
    """Weights of which the last layer's depend on a strength."""

    def __init__(self, strength: float, name: str = "model") -> None:
        super().__init__({f"{index}.weight": torch.eye(16) for index in range(LAYERS)}, origin=Path(name))
        self._strength = strength
        self.read_keys: list[str] = []

    def identity(self, key: str) -> str:
        return f"{self.origin} {key} {self._strength if key.startswith(str(LAYERS - 1)) else ''}"

    def is_made(self, key: str) -> bool:
        return True

    def read_into(self, key: str, out: Tensor) -> None:
        self.read_keys.append(key)
        out.copy_(torch.eye(16) * (self._strength if key.startswith(str(LAYERS - 1)) else 1))


def part(strength: float, name: str = "model") -> Part:
    def build() -> nn.Module:
        return nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(LAYERS)))

    target = Target(torch.device("cpu"), torch.float32)
    return Part(f"{name} {strength}", "U-Net", Strength(strength, name), target, build)


def last(module: nn.Module) -> Tensor:
    return module.get_parameter(f"{LAYERS - 1}.weight")


def read_keys(one: Part) -> list[str]:
    assert isinstance(one.source, Strength)
    return one.source.read_keys


def test_in_the_next_job_what_differs_is_read_into_the_memory_of_what_it_replaces() -> None:
    residency, before, after = Residency(2**20, small=0), part(0.8), part(0.7)
    residency.begin_job()
    place = last(residency.get(before)).data_ptr()
    residency.begin_job()
    module = residency.get(after)
    assert last(module).data_ptr() == place
    assert float(last(module).detach()[0, 0]) == torch.tensor(0.7).item()
    assert read_keys(after) == [f"{LAYERS - 1}.weight"]
    assert residency.used() == LAYERS * LEAF
    assert [held.device_bytes for held in residency.report()] == [LAYERS * LEAF]


def test_within_a_job_both_stay_so_that_further_pictures_read_nothing() -> None:
    residency, low, high = Residency(2**20, small=0), part(0.1), part(0.9)
    residency.begin_job()
    for _ in range(3):
        assert float(last(residency.get(low)).detach()[0, 0]) == torch.tensor(0.1).item()
        assert float(last(residency.get(high)).detach()[0, 0]) == torch.tensor(0.9).item()
    assert len(read_keys(low)) + len(read_keys(high)) == LAYERS + 1


def test_another_model_leaves_everything_where_it_is() -> None:
    residency, one, other = Residency(2**20, small=0), part(0.8, "one"), part(0.8, "other")
    for wanted in (one, other, one, other):
        residency.begin_job()
        residency.get(wanted)
    assert len(read_keys(one)) == len(read_keys(other)) == LAYERS


def test_a_network_that_was_emptied_still_computes() -> None:
    residency, before = Residency(2**20, small=0), part(0.8)
    old = residency.get(before)
    x = torch.ones(1, 16)
    expected = old(x)
    residency.begin_job()
    residency.get(part(0.7))
    assert torch.equal(old(x), expected)


def test_workers_of_a_single_threaded_pool_compute_with_one_thread_and_nobody_else_does() -> None:
    before = torch.get_num_threads()
    with single_threaded_pool(3, "test") as pool:
        assert [pool.submit(torch.get_num_threads).result() for _ in range(6)] == [1] * 6
    assert torch.get_num_threads() == before
