"""Layers that come and go while a network runs: the same numbers, within the budget, in whatever order they run."""

import gc
import random
import subprocess
import sys
import textwrap
import time
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from backend.errors import BadCheckpoint, OutOfMemory
from backend.memory.layouts import Target
from backend.memory.part import Part
from backend.memory.placement import LeafSize, place
from backend.memory.residency import Residency
from backend.memory.ring import Ring
from backend.nn.autoencoder import Autoencoder, AutoencoderConfig
from backend.nn.unet import UNet, UNetConfig
from backend.weights.safetensors_file import SafetensorsFile, open_safetensors, write_safetensors
from backend.weights.source import InMemory
from tests.inline_executor import InlineExecutor

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
FLOAT32, BFLOAT16 = Target(CPU, torch.float32), Target(CPU, torch.bfloat16)
WIDENING = Target(CPU, torch.float32, widens_on_use=True)
CONFIG = UNetConfig(model_channels=32, channel_mult=(1, 2), transformer_depth=(1, 1), context_dim=16, num_heads=4)
LEAF = 1024


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> SafetensorsFile:
    """A tiny U-Net in float16."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "unet.safetensors"
    write_safetensors(path, {name: tensor.half() for name, tensor in UNet(CONFIG).state_dict().items()})
    return open_safetensors(path)


def unet(file: SafetensorsFile, target: Target) -> Part:
    return Part(f"unet {target}", "U-Net", file, target, lambda: UNet(CONFIG))


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, context = (torch.randn(shape, generator=generator) for shape in ((2, 4, 8, 8), (2, 7, 16)))
    return x.to(dtype), torch.tensor([10.0, 500.0]), context.to(dtype)


def size_of(part: Part) -> int:
    residency = Residency(2**40)
    residency.get(part)
    return residency.used()


@pytest.mark.parametrize("target", [FLOAT32, BFLOAT16, WIDENING], ids=["float32", "bfloat16", "widened on use"])
@torch.inference_mode()
def test_a_network_computes_the_same_bits_under_any_budget(file, target):
    part, given_inputs = unet(file, target), inputs(target.dtype)
    expected = Residency(2**40).get(part)(*given_inputs)
    before = {key: file.read(key).clone() for key in file.keys()}
    for percent in (10, 40, 90, 100):
        residency = Residency(size_of(part) * percent // 100, small=256)
        module = residency.get(part)
        for _step in range(2):
            assert torch.equal(module(*given_inputs), expected), percent
            assert residency.used() <= residency.budget
        [held] = residency.report()
        assert (held.streamed_bytes == 0) == (percent == 100)
        assert held.total_bytes == size_of(part)
    assert all(torch.equal(file.read(key), before[key]) for key in file.keys())


@torch.inference_mode()
def test_packed_weights_come_and_go_as_they_are_packed(tmp_path):
    torch.manual_seed(0)
    weights = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in UNet(CONFIG).state_dict().items()}
    write_safetensors(tmp_path / "fp8", weights)
    part, given_inputs = unet(open_safetensors(tmp_path / "fp8"), WIDENING), inputs(torch.float32)
    whole = Residency(2**40)
    expected = whole.get(part)(*given_inputs)
    assert whole.used() < 1.3 * sum(tensor.nbytes for tensor in weights.values())
    tight = Residency(whole.used() // 4, small=256)
    for _step in range(2):
        assert torch.equal(tight.get(part)(*given_inputs), expected)


class Recording(InMemory):
    """Tells which weights are read, in which order."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.reads: list[str] = []

    def read_into(self, key: str, out: Tensor) -> None:
        self.reads.append(key.removesuffix(".weight"))
        super().read_into(key, out)


class Called(nn.Module):
    """Layers of 1 KiB that are called in an order that is given with each call."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16, bias=False) for _ in range(layers))

    def forward(self, x: Tensor, order: list[int]) -> Tensor:
        for index in order:
            x = self.layers[index](x)
        return x


def called(layers: int, **options) -> tuple[Part, Recording]:
    torch.manual_seed(2)
    source = Recording({f"layers.{index}.weight": torch.randn(16, 16) / 4 for index in range(layers)})
    return Part(f"{layers} {options}", "network", source, FLOAT32, lambda: Called(layers), **options), source


def expected(part: Part, x: Tensor, order: list[int]) -> Tensor:
    for index in order:
        x = x @ part.source.read(f"layers.{index}.weight").T
    return x


def read_in(source: Recording) -> list[int]:
    reads = [int(name.removeprefix("layers.")) for name in source.reads]
    source.reads.clear()
    return reads


ORDERS = [
    ("as they were built", [0, 1, 2, 3, 4, 5]),
    ("backwards", [5, 4, 3, 2, 1, 0]),
    ("some of them never", [1, 3, 5, 4]),
    ("pairs again and again", [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5]),
    ("one of them everywhere", [0, 1, 0, 2, 0, 3, 0, 4, 0, 5]),
    ("one of them at both ends", [0, 1, 2, 3, 4, 5, 0]),
]


@pytest.mark.parametrize("order", [order for _, order in ORDERS], ids=[name for name, _ in ORDERS])
@torch.inference_mode()
def test_layers_are_right_in_any_order(order):
    part, _source = called(6)
    x = torch.randn(3, 16)
    module = Residency(3 * LEAF, small=0).get(part)
    for _ in range(4):
        assert torch.allclose(module(x, order), expected(part, x, order), atol=1e-5)


@pytest.mark.parametrize("order", [order for _, order in ORDERS[:4]], ids=[name for name, _ in ORDERS[:4]])
@torch.inference_mode()
def test_once_the_order_is_known_every_layer_is_read_once_a_pass(order):
    part, source = called(6)
    module = Residency(3 * LEAF, small=0, readers=InlineExecutor()).get(part)
    for _ in range(3):
        module(torch.ones(1, 16), order)
    read_in(source)
    module(torch.ones(1, 16), order)
    distinct = list(dict.fromkeys(order))
    streamed = read_in(source)
    assert sorted(streamed) == sorted(set(streamed))
    assert set(streamed) <= set(distinct)
    assert len(streamed) >= len(distinct) - 2


@torch.inference_mode()
def test_the_next_layers_are_read_while_one_runs_and_those_of_the_next_pass_at_the_end():
    part, source = called(8)
    residency = Residency(3 * LEAF, small=0, readers=InlineExecutor())
    module = residency.get(part)
    assert residency.report()[0].streamed_bytes >= 6 * LEAF
    seen: list[list[int]] = []
    assert isinstance(module, Called)
    for layer in module.layers:
        layer.register_forward_hook(lambda *_: seen.append(read_in(source)))
    for _ in range(3):
        module(torch.ones(1, 16), list(range(8)))
    seen.clear()
    read_in(source)
    module(torch.ones(1, 16), list(range(8)))
    *before, at_the_end = [reads for reads in seen if reads]
    within = [index for reads in before for index in reads]
    streamed = [index for index in range(8) if module.layers[index].weight.is_meta]
    assert sorted(within + at_the_end) == streamed
    assert at_the_end[-1] in streamed[:2]
    assert within[0] in streamed[1:3]


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=12), min_size=1, max_size=6), st.integers(2, 6))
@settings(max_examples=40, deadline=None, derandomize=True)
@torch.inference_mode()
def test_layers_are_right_whatever_is_called(passes, budget):
    part, _source = called(7)
    residency = Residency(budget * LEAF, small=0)
    module, x = residency.get(part), torch.ones(1, 16)
    for order in passes:
        assert torch.allclose(module(x, order), expected(part, x, order), atol=1e-4)
        assert residency.used() <= residency.budget


@torch.inference_mode()
def test_two_ways_through_a_network_that_take_turns_are_right(tmp_path):
    """An autoencoder encodes and decodes: neither way runs the other's layers."""
    config = AutoencoderConfig(channels=32, channel_mult=(1, 2), num_res_blocks=1)
    torch.manual_seed(3)
    write_safetensors(tmp_path / "vae", Autoencoder(config).state_dict())
    part = Part("vae", "autoencoder", open_safetensors(tmp_path / "vae"), FLOAT32, lambda: Autoencoder(config))
    whole, tight = (Residency(budget, small=256).get(part) for budget in (2**40, size_of(part) // 5))
    assert isinstance(whole, Autoencoder)
    assert isinstance(tight, Autoencoder)
    image = torch.randn(1, 3, 16, 16)
    for _ in range(3):
        latents = whole.encode(image)[0]
        assert torch.equal(tight.encode(image)[0], latents)
        assert torch.equal(tight.decode(latents), whole.decode(latents))


@torch.inference_mode()
def test_layers_that_run_once_take_memory_only_meanwhile():
    """On the host a network that fits keeps them, because they are views of the file."""
    part, source = called(6, once=["layers.0", "layers.1"])
    residency = Residency(4 * LEAF, small=0, readers=InlineExecutor())
    module, x = residency.get(part), torch.ones(1, 16)
    module(x, [0, 1])
    assert residency.used() == residency.report()[0].total_bytes - residency.report()[0].streamed_bytes
    assert read_in(source) == [0, 1]
    for _ in range(2):
        module(x, [2, 3, 4, 5])
    assert not {0, 1} & set(read_in(source))
    assert torch.allclose(module(x, [0, 1, 2]), expected(part, x, [0, 1, 2]))
    assert Residency(6 * LEAF, small=0).get(part)(x, [0]).shape == x.shape


class Failing(nn.Linear):
    """A layer that fails once."""

    has_failed = False

    def forward(self, input: Tensor) -> Tensor:
        if not self.has_failed:
            self.has_failed = True
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(input)


@torch.inference_mode()
def test_a_layer_that_fails_leaves_the_ring_in_order():
    source = InMemory({f"{index}.weight": torch.eye(16) for index in range(6)})
    layers = [nn.Linear, nn.Linear, nn.Linear, Failing, nn.Linear, nn.Linear]
    part = Part("f", "net", source, FLOAT32, lambda: nn.Sequential(*(layer(16, 16, bias=False) for layer in layers)))
    residency = Residency(2 * LEAF, small=0)
    module = residency.get(part)
    with pytest.raises(torch.OutOfMemoryError):
        module(torch.ones(1, 16))
    for _ in range(3):
        assert torch.equal(module(torch.ones(1, 16)), torch.ones(1, 16))
    assert all(layer.weight.is_meta for layer in module.children() if isinstance(layer, nn.Linear))


def test_a_layer_that_is_called_inside_of_itself_keeps_its_weights():
    class Twice(nn.Linear):
        def forward(self, input: Tensor, *, again: bool = True) -> Tensor:
            x = self(input, again=False) if again else input
            return super().forward(x)

    source = InMemory({f"{index}.weight": torch.eye(16) * 2 for index in range(4)})
    part = Part("t", "net", source, FLOAT32, lambda: nn.Sequential(*(Twice(16, 16, bias=False) for _ in range(4))))
    module = Residency(2 * LEAF, small=0).get(part)
    assert torch.equal(module(torch.ones(1, 16)), torch.full((1, 16), 2.0**8))


def test_a_file_that_changes_while_it_is_streamed_is_told(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    write_safetensors(path, {name: tensor.half() for name, tensor in UNet(CONFIG).state_dict().items()})
    part = unet(open_safetensors(path), BFLOAT16)
    module = Residency(size_of(part) // 10, small=256).get(part)
    module(*inputs(torch.bfloat16))
    path.write_bytes(path.read_bytes()[:-1000])
    for _ in range(2):
        with pytest.raises(BadCheckpoint, match="changed on the disk"):
            module(*inputs(torch.bfloat16))


def test_memory_that_is_shrunk_in_the_middle_of_a_job_changes_no_bits(file):
    part, given_inputs = unet(file, BFLOAT16), inputs(torch.bfloat16)
    size = size_of(part)
    residency = Residency(size, small=256)
    module = residency.get(part)
    expected = module(*given_inputs)
    for _ in range(5):
        residency.shrink()
        assert residency.used() <= residency.budget < size
        assert torch.equal(module(*given_inputs), expected)
        assert residency.used() <= residency.budget
    residency.begin_job()
    assert residency.budget == size
    residency.get(part)
    assert residency.report()[0].streamed_bytes == 0
    assert torch.equal(module(*given_inputs), expected)


def test_a_network_that_is_dropped_leaves_nothing_behind(file):
    part = unet(file, BFLOAT16)
    residency = Residency(size_of(part) // 5, small=256)
    module = residency.get(part)
    module(*inputs(torch.bfloat16))
    gone = weakref.ref(module)
    del module
    residency.drop_all()
    for _ in range(200):  # a layer may be on its way still
        gc.collect()
        if gone() is None:
            break
        time.sleep(0.02)
    assert gone() is None


# Placement


def sizes(*kib: int, once: int = 0) -> list[LeafSize]:
    return [LeafSize(name=str(index), num_bytes=size * 1024, is_once=index < once) for index, size in enumerate(kib)]


def test_everything_stays_if_it_fits():
    placement = place(sizes(5, 3, 4), 12 * 1024, keeps_once=True, title="network")
    assert placement.resident == {"0", "1", "2"}
    assert placement.num_bytes == placement.resident_bytes == 12 * 1024
    assert not placement.streamed_bytes


def test_the_largest_layers_stay_and_two_of_the_others_fit_the_ring():
    placement = place(sizes(1, 9, 1, 8, 1, 2, 2, 2, 2), 24 * 1024, keeps_once=True, title="network")
    assert {"1", "3"} <= placement.resident
    assert 4 * 1024 <= placement.ring_bytes <= 7 * 1024
    assert placement.num_bytes <= 24 * 1024


def test_layers_that_run_once_do_not_stay_on_a_device():
    leaves = sizes(6, 6, 2, 2, once=2)
    assert place(leaves, 100 * 1024, keeps_once=True, title="n").resident == {"0", "1", "2", "3"}
    placement = place(leaves, 100 * 1024, keeps_once=False, title="n")
    assert placement.resident == {"2", "3"}
    assert placement.once_ring_bytes == 12 * 1024


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans(), st.booleans()), min_size=1), st.integers(0, 1000))
@example([(1, True, False), (1, True, False), (26, False, False)], 27)  # room for one of the small ones at a time
@settings(max_examples=300, deadline=None, derandomize=True)
def test_no_placement_takes_more_than_there_is(shapes, room):
    leaves = [
        LeafSize(name=str(index), num_bytes=size, is_once=once, stays=stays)
        for index, (size, once, stays) in enumerate(shapes)
    ]
    for keeps_once in (True, False):
        try:
            placement = place(leaves, room, keeps_once=keeps_once, title="network")
        except OutOfMemory:
            fixed = sum(leaf.num_bytes for leaf in leaves if leaf.stays)
            others = [leaf for leaf in leaves if not leaf.stays]
            largest = [max((x.num_bytes for x in others if x.is_once == once), default=0) for once in (True, False)]
            assert fixed + sum(largest) > room
            continue
        assert placement.num_bytes <= room
        passing = [leaf for leaf in leaves if leaf.name not in placement.resident]
        assert placement.streamed_bytes == sum(leaf.num_bytes for leaf in passing)
        assert all(leaf.num_bytes <= placement.ring_bytes for leaf in passing if not leaf.is_once)
        assert all(leaf.num_bytes <= placement.once_ring_bytes for leaf in passing if leaf.is_once)


# The ring


@given(st.integers(10, 60), st.lists(st.integers(1, 20), max_size=60), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_places_in_a_ring_never_overlap(size, wanted, chance: random.Random):
    ring, taken = Ring(size), dict[int, int]()
    for num_bytes in wanted:
        while (begin := ring.take(num_bytes)) is None and taken:
            gone = chance.choice([*taken])
            del taken[gone]
            ring.give_back(gone)
        if begin is None:
            assert num_bytes > size
            continue
        assert 0 <= begin <= size - num_bytes
        assert all(begin + num_bytes <= other or other + length <= begin for other, length in taken.items())
        taken[begin] = num_bytes


def test_what_was_taken_last_can_be_given_back_first():
    ring = Ring(10)
    first, second = ring.take(4), ring.take(4)
    assert ring.take(4) is None
    assert (first, second) == (0, 4)
    ring.give_back(4)
    assert ring.take(6) == 4


# Memory of the process


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_network_larger_than_the_budget_keeps_the_memory_of_the_process_within_it(tmp_path):
    """A U-Net of 240 MB in a float16 file, used as it is there, with a budget of 60 MiB; and again after a switch."""
    script = """
        import sys, torch
        from pathlib import Path
        from backend.memory.layouts import Target
        from backend.memory.part import Part
        from backend.memory.residency import Residency
        from backend.nn.unet import UNet, UNetConfig
        from backend.weights.safetensors_file import open_safetensors, write_safetensors

        torch.set_num_threads(1)
        config = UNetConfig(model_channels=128, channel_mult=(1, 2, 4, 4), context_dim=64, num_heads=4)

        def resident():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

        with torch.device("meta"):
            slots = UNet(config).state_dict()
        print(sum(slot.numel() * 2 for slot in slots.values()) / 2**20)
        paths = [Path(sys.argv[1]) / name for name in ("a", "b")]
        for path in paths:
            write_safetensors(path, {name: torch.full(slot.shape, 1e-3, dtype=torch.float16)
                                     for name, slot in slots.items()})
        target = Target(torch.device("cpu"), torch.float32, widens_on_use=True)
        parts = [Part(str(path), "U-Net", open_safetensors(path), target, lambda: UNet(config)) for path in paths]

        @torch.inference_mode()
        def use(residency, part):
            latents, context = torch.ones(1, 4, 8, 8), torch.ones(1, 77, 64)
            residency.get(part)(latents, torch.ones(1), context)

        torch.mm(torch.ones(8, 8), torch.ones(8, 8))
        print(resident())
        residency = Residency(60 * 2**20)
        for part in (*parts, *parts):
            use(residency, part)
            use(residency, part)
            print(resident())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    size, before, *after = (float(line) for line in done.stdout.split())
    assert size > 200
    assert all(megabytes - before < 60 + 90 for megabytes in after), done.stdout  # beside weights: kernels, activations
