"""Networks under a byte budget: the least recently used make room, and their memory goes back to the system."""

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
from torch import Tensor, nn

from backend.errors import KeysDoNotMatch, OutOfMemory
from backend.memory.layouts import Target
from backend.memory.part import Part
from backend.memory.residency import Held, Residency
from backend.weights.source import InMemory

ROOT = Path(__file__).resolve().parents[1]
FLOAT32 = Target(torch.device("cpu"), torch.float32)
LEAF = 1024  # bytes of each layer below


class Source(InMemory):
    """Remembers how often something was read."""

    def __init__(self, tensors: dict[str, Tensor], name: str) -> None:
        super().__init__(tensors, origin=Path(name))
        self.reads = 0

    def identity(self, key: str) -> str:
        """As files have it: what is in another one is something else."""
        return f"{self.origin} {key}"

    def read(self, key: str) -> Tensor:
        self.reads += 1
        return super().read(key)

    def read_into(self, key: str, out: Tensor) -> None:
        self.reads += 1
        super().read_into(key, out)


def network(layers: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(layers)))


def part(name: str, layers: int = 1, build=None) -> Part:
    """A network of so many layers of 1 KiB each."""
    tensors = {f"{index}.weight": torch.eye(16) for index in range(layers)}
    source = Source(tensors, name)
    return Part(f"{name} {layers}", "U-Net", source, FLOAT32, build or (lambda: network(layers)))


def room_for(layers: float) -> Residency:
    return Residency(int(layers * LEAF), small=0)


def held(residency: Residency) -> list[str]:
    return [f"{entry.label.removeprefix('U-Net of ')} {entry.device_bytes // LEAF}" for entry in residency.report()]


def reads(part: Part) -> int:
    assert isinstance(part.source, Source)
    return part.source.reads


def test_a_held_network_is_given_again_and_not_built_twice():
    residency, wanted = room_for(10), part("a", 2)
    first = residency.get(wanted)
    assert residency.get(wanted) is residency.get(part("a", 2)) is first
    assert reads(wanted) == 2
    assert residency.report() == (
        Held(label="U-Net of a", device_bytes=2 * LEAF, host_bytes=0, streamed_bytes=0, total_bytes=2 * LEAF),
    )
    assert residency.used() == 2 * LEAF


def test_a_network_that_fits_is_as_it_was_built_without_any_hooks():
    module = room_for(2).get(part("a", 2))
    assert all(not layer._forward_pre_hooks and not layer._forward_hooks for layer in module.modules())
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_the_least_recently_used_make_room_and_only_as_much_as_is_needed():
    residency = room_for(7)
    for name in ("a", "b", "a"):
        residency.get(part(name, 3))
    assert held(residency) == ["b 3", "a 3"]
    residency.get(part("c", 2))
    assert held(residency) == ["b 2", "a 3", "c 2"]
    residency.get(part("d", 4))
    assert held(residency) == ["a 1", "c 2", "d 4"]
    residency.get(part("e", 7))
    assert held(residency) == ["e 7"]


def test_one_whose_place_another_takes_makes_room_before_all_others():
    residency = room_for(7)
    for name in ("a", "b"):
        residency.get(part(name, 3))
    residency.retire(part("b", 3))
    residency.get(part("c", 3))
    assert held(residency) == ["b 1", "a 3", "c 3"]
    residency.get(part("b", 3))
    assert held(residency) == ["a 1", "c 3", "b 3"]
    residency.retire(part("not held"))


def test_what_made_room_is_loaded_again_and_nothing_else():
    residency, first = room_for(5), part("a", 4)
    module = residency.get(first)
    residency.get(part("b", 2))
    assert held(residency) == ["a 3", "b 2"]
    assert residency.get(first) is module
    assert reads(first) == 5
    assert held(residency) == ["b 1", "a 4"]


def test_a_network_that_made_room_while_it_was_in_use_computes_the_same():
    residency, x = room_for(4), torch.randn(3, 16)
    module = residency.get(part("a", 4))
    residency.get(part("b", 3))
    assert torch.equal(module(x), x)
    assert residency.used() <= residency.budget


def test_memory_for_activations_is_kept_free():
    residency = room_for(8)
    residency.get(part("a", 3))
    residency.get(part("b", 3), working_bytes=4 * LEAF)
    assert held(residency) == ["a 1", "b 3"]
    residency.get(part("b", 3), working_bytes=6 * LEAF)
    assert residency.used() <= 2 * LEAF


def test_a_network_of_which_no_layer_fits_is_refused_and_nothing_leaves():
    residency = Residency(3 * 2**20)
    residency.get(part("a"))

    def large() -> Part:
        source = Source({"weight": torch.empty(1024, 1024)}, "b")
        return Part("b", "U-Net", source, FLOAT32, lambda: nn.Linear(1024, 1024, bias=False))

    with pytest.raises(
        OutOfMemory, match=r"U-Net of b needs 4 MiB at the least, but 3 MiB .* 1 MiB are missing\. Make"
    ):
        residency.get(large())
    assert [entry.label for entry in residency.report()] == ["U-Net of a"]


def test_room_is_made_before_weights_are_read():
    residency = room_for(1)
    residency.get(part("a"))
    gone = []

    class Watching(Source):
        def read(self, key: str) -> Tensor:
            gone.append(held(residency))
            return super().read(key)

    source = Watching({"0.weight": torch.eye(16)}, "b")
    residency.get(Part("b", "U-Net", source, FLOAT32, lambda: network(1)))
    assert gone == [[]]


def test_a_network_in_use_lives_until_its_user_lets_go():
    residency = room_for(10)
    module = residency.get(part("a"))
    gone = weakref.ref(module)
    residency.drop_all()
    assert residency.used() == 0
    assert not residency.report()
    assert module(torch.ones(1, 16)).shape == (1, 16)
    del module
    gc.collect()
    assert gone() is None


def test_a_network_that_cannot_be_built_leaves_no_entry():
    residency = room_for(10)

    def fail() -> nn.Module:
        raise KeyError("broken")

    with pytest.raises(KeyError):
        residency.get(part("a", build=fail))
    assert residency.used() == 0
    residency.get(part("a"))
    assert held(residency) == ["a 1"]


def test_weights_that_do_not_fit_the_network_are_told_before_anything_leaves():
    residency = room_for(2)
    residency.get(part("a", 2))
    with pytest.raises(KeysDoNotMatch, match=r"its U-Net does not fit the network: 1 missing \(1\.weight\)"):
        residency.get(part("b", 1, build=lambda: network(2)))
    assert held(residency) == ["a 2"]


class Failing(Source):
    """Gives its weights only after so many failures, and notes what is held at each."""

    def __init__(self, error: Exception, failures: int, residency: Residency) -> None:
        super().__init__({"0.weight": torch.eye(16)}, "b")
        self.error, self.failures, self.residency = error, failures, residency
        self.seen: list[list[str]] = []

    def read(self, key: str) -> Tensor:
        self.seen.append(held(self.residency))
        if len(self.seen) <= self.failures:
            raise self.error
        return super().read(key)


def no_memory_on_cpu() -> Exception:
    return RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes.")


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), no_memory_on_cpu()])
def test_everything_else_leaves_when_the_machine_has_no_memory_and_then_it_is_told(error):
    residency = room_for(10)
    source = Failing(error, 2, residency)
    residency.get(part("a"))
    with pytest.raises(OutOfMemory, match="The machine has no memory for U-Net of b"):
        residency.get(Part("b", "U-Net", source, FLOAT32, lambda: network(1)))
    assert source.seen == [["a 1"], []]
    assert residency.used() == 0


def test_a_network_that_fits_at_the_second_try_is_held():
    residency = room_for(10)
    source = Failing(MemoryError(), 1, residency)
    residency.get(part("a"))
    residency.get(Part("b", "U-Net", source, FLOAT32, lambda: network(1)))
    assert held(residency) == ["b 1"]


def test_other_failures_are_not_tried_again():
    residency = room_for(10)
    source = Failing(RuntimeError("shapes cannot be multiplied"), 1, residency)
    with pytest.raises(RuntimeError, match="shapes"):
        residency.get(Part("b", "U-Net", source, FLOAT32, lambda: network(1)))
    assert len(source.seen) == 1


def test_what_is_held_can_be_asked_for_while_a_network_is_built():
    residency, building, asked = room_for(10), threading.Event(), threading.Event()

    def build() -> nn.Module:
        building.set()
        assert asked.wait(10)
        return network(1)

    residency.get(part("a"))
    thread = threading.Thread(target=residency.get, args=(part("b", build=build),))
    thread.start()
    assert building.wait(10)
    assert held(residency) == ["a 1"]
    asked.set()
    thread.join(10)
    assert held(residency) == ["a 1", "b 1"]


def test_threads_that_want_the_same_network_get_one():
    residency, wanted = room_for(10), part("a")
    found: list[nn.Module] = []
    threads = [threading.Thread(target=lambda: found.append(residency.get(wanted))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert reads(wanted) == 1
    assert len(set(map(id, found))) == 1


def test_what_comes_and_goes_is_logged(caplog):
    caplog.set_level(logging.INFO, "backend.memory.residency")
    residency = Residency(3 * 2**20, small=0)
    residency.get(large("a", 2))
    residency.get(large("b", 2))
    residency.get(large("c", 4))
    assert caplog.messages == [
        "U-Net of a: 2 MiB of 2 MiB resident, 0 MiB streamed through 0 MiB; 2 MiB of 3 MiB used",
        "U-Net of a makes room and keeps 1 MiB",
        "U-Net of b: 2 MiB of 2 MiB resident, 0 MiB streamed through 0 MiB; 3 MiB of 3 MiB used",
        "U-Net of a left the memory",
        "U-Net of b left the memory",
        "U-Net of c: 1 MiB of 4 MiB resident, 3 MiB streamed through 2 MiB; 1 MiB of 3 MiB used",
    ]


def large(name: str, layers: int) -> Part:
    """Layers of 1 MiB."""
    tensors = {f"{index}.weight": torch.empty(512, 512) for index in range(layers)}
    layer = [nn.Linear(512, 512, bias=False, device="meta") for _ in range(layers)]
    return Part(name, "U-Net", Source(tensors, name), FLOAT32, lambda: nn.Sequential(*layer))


def test_the_budget_is_read_again_for_each_job_and_what_no_longer_fits_leaves():
    budgets = iter([4 * LEAF, 2 * LEAF, 3 * LEAF])
    asked = []

    def reread(used: int) -> int:
        asked.append(used)
        return next(budgets)

    residency = Residency(0, reread=reread, small=0)
    residency.begin_job()
    residency.get(part("a", 4))
    residency.begin_job()
    assert held(residency) == ["a 2"]
    residency.begin_job()
    assert asked == [0, 4 * LEAF, 2 * LEAF]


def test_tables_of_embeddings_stay_where_the_file_is():
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(1000, 16)
            self.layer = nn.Linear(16, 16, bias=False)

        def forward(self, ids: Tensor) -> Tensor:
            return self.layer(self.table(ids))

    tensors = {"table.weight": torch.randn(1000, 16), "layer.weight": torch.eye(16)}
    residency = room_for(1)
    wanted = Part("t", "text encoder", InMemory(tensors), FLOAT32, Encoder, tables=["table"])
    module = residency.get(wanted)
    assert torch.equal(module(torch.tensor([7])), tensors["table.weight"][7:8])
    [entry] = residency.report()
    assert entry.device_bytes == LEAF
    assert entry.host_bytes >= 64000
    with pytest.raises(ValueError, match="no layer with weights named 'tables'"):
        residency.get(Part("u", "text encoder", InMemory(tensors), FLOAT32, Encoder, tables=["tables"]))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_ten_switches_between_two_checkpoints_leave_the_memory_as_it_was(tmp_path):
    """Two U-Nets of 60 MiB in float16 files, of which one fits the budget, used in turn; four switches to settle."""
    script = """
        import gc, sys, torch
        from pathlib import Path
        from backend.memory.layouts import Target
        from backend.memory.part import Part
        from backend.memory.residency import Residency
        from backend.nn.unet import UNet, UNetConfig
        from backend.weights.safetensors_file import open_safetensors, write_safetensors

        torch.set_num_threads(1)
        config = UNetConfig(model_channels=64, channel_mult=(1, 2, 4, 4), context_dim=64, num_heads=4, norm_groups=16)

        def anonymous():
            gc.collect()
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024

        with torch.device("meta"):
            slots = UNet(config).state_dict()
        size = sum(slot.numel() * 2 for slot in slots.values())
        paths = [Path(sys.argv[1]) / name for name in ("a", "b")]
        for path in paths:
            write_safetensors(path, {name: torch.full(slot.shape, 1e-3, dtype=torch.float16)
                                     for name, slot in slots.items()})
        target = Target(torch.device("cpu"), torch.bfloat16)
        parts = [Part(str(path), "U-Net", open_safetensors(path), target, lambda: UNet(config)) for path in paths]
        residency = Residency(size * 3 // 2)
        print(size / 2**20)

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


def merged(name: str, changed: int, *, layers: int = 4) -> Part:
    """A network that differs from others of its kind in one layer."""

    class Merged(Source):
        def identity(self, key: str) -> str:
            return f"{key} of {name if key == f'{changed}.weight' else 'both'}"

    tensors = {f"{index}.weight": torch.eye(16) * (2 if index == changed else 1) for index in range(layers)}
    return Part(f"{name} {changed}", "U-Net", Merged(tensors, name), FLOAT32, lambda: network(layers))


def test_of_a_network_that_differs_in_one_layer_only_that_one_is_read():
    residency = room_for(9)
    first, second = merged("first", 0), merged("second", 2)
    given = torch.ones(1, 16)
    before = residency.get(first)(given)
    after = residency.get(second)(given)
    assert (reads(first), reads(second)) == (4, 2)  # layer 0 and layer 2
    assert torch.equal(after, 2 * given)
    assert residency.used() == 6 * LEAF  # nothing is held twice
    assert torch.equal(residency.get(first)(given), before)
    assert reads(first) == 4  # what it had given away came back


def test_a_network_that_gave_layers_away_computes_the_same_while_it_is_used():
    residency = room_for(9)
    first = merged("first", 0)
    module = residency.get(first)
    given = torch.ones(1, 16)
    before = module(given)
    residency.get(merged("second", 2))
    assert torch.equal(module(given), before)
    assert reads(first) > 4  # read anew
    assert residency.used() <= 9 * LEAF


def test_layers_change_over_where_there_is_no_room_for_both():
    residency = room_for(4)
    first, second = merged("first", 0), merged("second", 2)
    residency.get(first)
    residency.get(second)
    assert reads(second) == 2
    assert held(residency) == ["second 4"]


def test_layers_that_are_held_otherwise_do_not_change_over():
    residency = room_for(9)
    first, second = merged("first", 0), merged("second", 2)
    residency.get(first)
    half = Part("half", second.label, second.source, Target(torch.device("cpu"), torch.float16), second.build)
    residency.get(half)
    assert reads(second) == 4
