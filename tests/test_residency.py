"""Networks under a byte budget: the least recently used leave first, and their memory goes back to the system."""

import gc
import logging
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from backend.errors import OutOfMemory
from backend.memory.residency import Held, Part, Residency

ROOT = Path(__file__).resolve().parents[1]


def part(name: str, num_bytes: int = 10, build=lambda: nn.Linear(2, 2)) -> Part:
    return Part(name, f"U-Net of {name}", num_bytes, build)


def held(residency: Residency) -> list[str]:
    return [entry.label.removeprefix("U-Net of ") for entry in residency.report()]


def test_a_held_network_is_given_again_and_not_built_twice():
    residency, built = Residency(100), []

    def build() -> nn.Module:
        built.append(1)
        return nn.Linear(2, 2)

    first = residency.get(part("a", build=build))
    assert residency.get(part("a", build=build)) is first
    assert built == [1]
    assert residency.report() == [Held("U-Net of a", 10)]
    assert residency.used() == 10


def test_the_least_recently_used_make_room():
    residency = Residency(35)
    for name in ("a", "b", "c", "a", "d"):
        residency.get(part(name))
        assert residency.used() <= residency.budget
    assert held(residency) == ["c", "a", "d"]
    residency.get(part("large", 30))
    assert held(residency) == ["large"]


def test_a_budget_is_filled_to_its_last_byte():
    residency = Residency(30)
    for name in ("a", "b", "c"):
        residency.get(part(name))
    assert held(residency) == ["a", "b", "c"]


def test_a_network_larger_than_the_budget_is_refused_and_nothing_leaves():
    residency = Residency(3 * 2**20)
    residency.get(part("a"))
    with pytest.raises(OutOfMemory, match=r"U-Net of b needs 4 MiB, but the memory budget is 3 MiB\. Raise it with"):
        residency.get(part("b", 4 * 2**20, build=pytest.fail))
    assert held(residency) == ["a"]


def test_room_is_made_before_the_new_network_is_built():
    residency = Residency(15)
    gone = weakref.ref(residency.get(part("a")))

    def build() -> nn.Module:
        assert gone() is None
        return nn.Linear(2, 2)

    residency.get(part("b", build=build))


def test_a_network_in_use_lives_until_its_user_lets_go():
    residency = Residency(100)
    network = residency.get(part("a"))
    gone = weakref.ref(network)
    residency.drop_all()
    assert residency.used() == 0
    assert not residency.report()
    assert network(torch.ones(1, 2)).shape == (1, 2)
    del network
    gc.collect()
    assert gone() is None


def test_a_network_that_cannot_be_built_leaves_no_entry():
    residency = Residency(100)

    def fail() -> nn.Module:
        raise KeyError("broken")

    with pytest.raises(KeyError):
        residency.get(part("a", build=fail))
    assert residency.used() == 0
    residency.get(part("a"))
    assert held(residency) == ["a"]


def too_much() -> nn.Module:
    return nn.Linear(2**30, 2**30)  # 4 EiB, which no machine gives


def gpu_too_much() -> nn.Module:
    raise torch.OutOfMemoryError("CUDA out of memory")


def no_memory() -> nn.Module:
    raise MemoryError


@pytest.mark.parametrize("build", [too_much, gpu_too_much, no_memory])
def test_everything_else_leaves_when_the_machine_has_no_memory_and_then_it_is_told(build):
    residency, tries = Residency(100), []

    def counted() -> nn.Module:
        tries.append(held(residency))
        return build()

    residency.get(part("a"))
    with pytest.raises(OutOfMemory, match="The machine has no memory for U-Net of b"):
        residency.get(part("b", build=counted))
    assert tries == [["a"], []]
    assert residency.used() == 0


def test_a_network_that_fits_at_the_second_try_is_held():
    residency, tries = Residency(100), []

    def build() -> nn.Module:
        tries.append(1)
        return no_memory() if len(tries) == 1 else nn.Linear(2, 2)

    residency.get(part("a"))
    residency.get(part("b", build=build))
    assert held(residency) == ["b"]


def test_other_failures_are_not_tried_again():
    tries = []

    def build() -> nn.Module:
        tries.append(1)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        Residency(100).get(part("a", build=build))
    assert tries == [1]


def test_what_is_held_can_be_asked_for_while_a_network_is_built():
    residency, building, asked = Residency(100), threading.Event(), threading.Event()

    def build() -> nn.Module:
        building.set()
        assert asked.wait(10)
        return nn.Linear(2, 2)

    residency.get(part("a"))
    thread = threading.Thread(target=residency.get, args=(part("b", build=build),))
    thread.start()
    assert building.wait(10)
    assert held(residency) == ["a"]
    asked.set()
    thread.join(10)
    assert held(residency) == ["a", "b"]


def test_threads_that_want_the_same_network_get_one():
    residency, built = Residency(100), []

    def build() -> nn.Module:
        built.append(1)
        return nn.Linear(2, 2)

    found: list[nn.Module] = []
    threads = [threading.Thread(target=lambda: found.append(residency.get(part("a", build=build)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert built == [1]
    assert len(set(map(id, found))) == 1


def test_a_network_may_fetch_another_while_it_is_built():
    residency = Residency(100)

    def build() -> nn.Module:
        return nn.Sequential(residency.get(part("inner")))

    residency.get(part("outer", build=build))
    assert held(residency) == ["inner", "outer"]


def test_what_comes_and_goes_is_logged(caplog):
    caplog.set_level(logging.INFO, "backend.memory.residency")
    residency = Residency(3 * 2**20)
    residency.get(part("a", 2 * 2**20))
    residency.get(part("b", 3 * 2**20))
    assert caplog.messages == [
        "U-Net of a: 2 MiB in memory, 2 MiB of 3 MiB used",
        "U-Net of a left the memory",
        "U-Net of b: 3 MiB in memory, 3 MiB of 3 MiB used",
    ]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_ten_switches_between_two_checkpoints_leave_the_memory_as_it_was(tmp_path):
    """Two U-Nets of 60 MiB in float16 files, of which one fits the budget, used in turn; four switches to settle."""
    script = """
        import gc, sys, torch
        from pathlib import Path
        from backend.memory.binding import Target, bind
        from backend.memory.residency import Part, Residency
        from backend.nn.unet import UNet, UNetConfig
        from backend.weights.safetensors_file import open_safetensors, write_safetensors

        torch.set_num_threads(1)
        config = UNetConfig(model_channels=64, channel_mult=(1, 2, 4, 4), context_dim=64, num_heads=4, norm_groups=16)

        def anonymous():
            gc.collect()
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024

        def network():
            with torch.device("meta"):
                return UNet(config)

        def part(path):
            source = open_safetensors(path)

            def build():
                module = network()
                bind(module, source, Target(torch.device("cpu"), torch.bfloat16), part="U-Net")
                return module.eval()

            size = sum(source.spec(key).num_bytes for key in source.keys())
            return Part(str(path), path.name, size, build)

        paths = [Path(sys.argv[1]) / name for name in ("a", "b")]
        for path in paths:
            write_safetensors(path, {name: torch.full(slot.shape, 1e-3, dtype=torch.float16)
                                     for name, slot in network().state_dict().items()})
        parts = [part(path) for path in paths]
        residency = Residency(parts[0].num_bytes * 3 // 2)
        print(parts[0].num_bytes / 2**20)

        @torch.inference_mode()
        def use(part):
            latents, context = torch.ones(1, 4, 8, 8, dtype=torch.bfloat16), torch.ones(1, 77, 64, dtype=torch.bfloat16)
            residency.get(part)(latents, torch.ones(1), context)

        for switch in range(14):
            if switch == 4:
                print(anonymous())
            use(parts[switch % 2])
        print(anonymous())
        residency.drop_all()
        print(anonymous())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    size, before, after, dropped = (float(line) for line in done.stdout.split())
    assert 50 < size < 70
    assert abs(after - before) < 0.02 * before
    assert dropped < after - 0.9 * size
