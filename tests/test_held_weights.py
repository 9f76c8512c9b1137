"""Networks that are held get their weights from a source: strictly, in the wanted type, without spare copies."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from backend.errors import BadCheckpoint, KeysDoNotMatch
from backend.memory.device import detect_device
from backend.memory.dtype_policy import policy_for
from backend.memory.layouts import Target
from backend.memory.matching_keys import check_keys
from backend.memory.part import Part
from backend.memory.residency import Residency
from backend.weights.safetensors_file import open_safetensors, write_safetensors
from backend.weights.source import Computed, InMemory, TensorSpec, WeightSource, with_prefix
from tests.held_networks import held_network

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
FLOAT32, BFLOAT16 = Target(CPU, torch.float32), Target(CPU, torch.bfloat16)


class Network(nn.Module):
    """Every kind of slot: a kernel, a 1x1 convolution, matrices, a scalar, saved buffers and one that is not."""

    ids: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.project = nn.Conv2d(4, 5, 1)
        self.layers = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6))
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("table", torch.arange(3))
        self.register_buffer("ids", torch.arange(7), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(self.conv(x)).mean((-1, -2))
        return self.layers(x) * self.scale + self.table.sum()


def held(source: WeightSource, target: Target) -> Network:
    return held_network(Network, source, target).eval()


def tensors(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = Network().state_dict()
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}


def on_disk(path: Path, dtype: torch.dtype = torch.float32) -> Path:
    write_safetensors(path, tensors(dtype))
    return path


def test_a_held_network_computes_what_a_loaded_one_does(tmp_path):
    expected = Network().eval()
    expected.load_state_dict(tensors())
    network = held(open_safetensors(on_disk(tmp_path / "x")), FLOAT32)
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(network(x), expected(x), atol=1e-6)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.state_dict().keys() == expected.state_dict().keys()


@pytest.mark.parametrize(
    "stored", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn], ids=str
)
@pytest.mark.parametrize("target", [FLOAT32, BFLOAT16], ids=["to float32", "to bfloat16"])
def test_floating_point_weights_are_converted_and_numbers_are_not(tmp_path, stored, target):
    network = held(open_safetensors(on_disk(tmp_path / "x", stored)), target)
    state = network.state_dict()
    for name, tensor in tensors(stored).items():
        wanted = tensor.to(target.dtype) if tensor.is_floating_point() else tensor
        assert state[name].dtype == wanted.dtype
        assert torch.equal(state[name], wanted), name
    assert state["table"].dtype == state["layers.1.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize("full_precision", [True, False])
def test_a_half_precision_file_is_never_computed_with_as_such_on_a_cpu(tmp_path, full_precision):
    policy = policy_for(detect_device(force_cpu=True), full_precision=full_precision)
    network = held(open_safetensors(on_disk(tmp_path / "x", torch.float16)), Target(CPU, policy.unet))
    floats = {tensor.dtype for tensor in network.state_dict().values() if tensor.is_floating_point()}
    assert floats == {policy.unet}
    assert policy.unet in ((torch.float32,) if full_precision else (torch.bfloat16, torch.float32))


def test_kernels_are_channels_last_and_everything_else_is_plain(tmp_path):
    network = held(open_safetensors(on_disk(tmp_path / "x", torch.float16)), BFLOAT16)
    assert network.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(tensor.is_contiguous() for name, tensor in network.state_dict().items() if name != "conv.weight")


def test_weights_of_the_wanted_type_are_views_of_the_file(tmp_path):
    source = open_safetensors(on_disk(tmp_path / "x"))
    network = held(source, FLOAT32)
    for name, tensor in network.state_dict().items():
        assert (tensor.data_ptr() == source.read(name).data_ptr()) == (name != "conv.weight"), name


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_weights_that_are_widened_on_use_are_views_of_the_file_kernels_included(tmp_path, stored):
    source = open_safetensors(on_disk(tmp_path / "x", stored))
    target = Target(CPU, torch.float32, widens_on_use=True)
    network = held(source, target)
    for name, tensor in network.state_dict().items():
        assert tensor.data_ptr() == source.read(name).data_ptr(), name


@pytest.mark.parametrize("stored", [torch.float64, torch.float8_e4m3fn], ids=str)
def test_weights_that_cannot_be_widened_on_use_are_converted(tmp_path, stored):
    source = open_safetensors(on_disk(tmp_path / "x", stored))
    target = Target(CPU, torch.float32, widens_on_use=True)
    network = held(source, target)
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}


def test_the_same_source_can_be_held_twice_and_in_inference_mode(tmp_path):
    source = open_safetensors(on_disk(tmp_path / "x", torch.float16))
    first = held(source, BFLOAT16)
    with torch.inference_mode():
        second = held(source, BFLOAT16)
    x = torch.randn(1, 3, 8, 8, dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(first(x), second(x))


def test_a_buffer_that_no_checkpoint_holds_stays_as_it_is():
    def build() -> Network:
        network = Network()
        network.ids = torch.arange(7, device="cpu")
        return network

    network = held_network(build, InMemory(tensors()), BFLOAT16)
    assert network.ids.tolist() == list(range(7))


def test_weights_that_are_shared_inside_a_network_are_held_under_each_name():
    def build() -> nn.Sequential:
        network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        network[1].weight = network[0].weight
        return network

    source = InMemory({"0.weight": torch.ones(2, 2), "1.weight": torch.zeros(2, 2)})
    network = held_network(build, source, FLOAT32)
    assert network[0].weight.sum() == 4
    assert network[1].weight.sum() == 0


def test_a_computed_tensor_is_held_as_any_other():
    spec = TensorSpec((), torch.float64)
    source = Computed(
        InMemory(tensors()), {"scale": (spec, lambda: torch.tensor(0.25, dtype=torch.float64), "quarter")}
    )
    network = held(source, FLOAT32)
    assert network.scale.dtype == torch.float32
    assert network.scale.item() == 0.25


def test_keys_that_do_not_match_are_all_named_and_nothing_is_held(tmp_path):
    changed = tensors()
    del changed["conv.bias"]
    changed |= {"extra.weight": torch.ones(1), "scale": torch.ones(1), "project.weight": torch.ones(5, 4)}
    write_safetensors(tmp_path / "model.safetensors", changed)
    residency = Residency(2**30)
    part = Part("x", "U-Net", open_safetensors(tmp_path / "model.safetensors"), FLOAT32, Network)
    with pytest.raises(KeysDoNotMatch, match=r"model\.safetensors: its U-Net does not fit") as raised:
        residency.get(part)
    error = raised.value
    assert error.missing == ("conv.bias",)
    assert error.unexpected == ("extra.weight",)
    assert set(error.misshaped) == {"project.weight [5, 4] instead of [5, 4, 1, 1]", "scale [1] instead of []"}
    assert all(name in str(error) for name in ("conv.bias", "extra.weight", "project.weight"))
    assert residency.used() == 0
    assert residency.report() == ()


def test_keys_can_be_compared_without_a_network():
    source = InMemory({"a": torch.ones(2)})
    check_keys({"a": torch.Size([2])}, source, "part")
    with pytest.raises(KeysDoNotMatch):
        check_keys({}, source, "part")


def test_many_keys_that_do_not_match_make_a_short_message():
    source = with_prefix(InMemory({f"key.{i}": torch.ones(1) for i in range(1000)}), "key.")
    with pytest.raises(KeysDoNotMatch) as raised:
        check_keys({}, source, "part")
    assert len(raised.value.unexpected) == 1000
    assert len(str(raised.value)) < 300


def test_of_a_file_that_changed_nothing_is_held(tmp_path):
    source = open_safetensors(on_disk(tmp_path / "x", torch.float16))
    on_disk(tmp_path / "x", torch.float32)
    residency = Residency(2**30)
    with pytest.raises(BadCheckpoint, match="changed on the disk"):
        residency.get(Part("x", "U-Net", source, BFLOAT16, Network))
    assert residency.report() == ()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_holding_takes_no_memory_for_views_and_little_more_than_the_result_for_conversions(tmp_path):
    """Sixty MiB of matrices that stay float32, and sixty of float16 that become bfloat16."""
    script = """
        import sys, threading, torch
        from pathlib import Path
        from torch import nn
        from backend.memory.layouts import Target
        from backend.memory.part import Part
        from backend.memory.residency import Residency
        from backend.weights.safetensors_file import open_safetensors, write_safetensors

        torch.set_num_threads(1)

        def anonymous():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024

        def held(path, shape, target):
            def build():
                return nn.Sequential(*(nn.Linear(*reversed(shape), bias=False) for _ in range(15)))

            target = Target(torch.device("cpu"), target)
            network = Residency(2**30).get(Part("network", "network", open_safetensors(path), target, build))
            assert all(parameter[0].sum() == shape[1] for parameter in network.parameters())
            return network

        def growth(path, stored, target):
            shape = (1024, 4096 // stored.itemsize)
            write_safetensors(path, {f"{i}.weight": torch.ones(shape, dtype=stored) for i in range(15)})
            held(path, shape, target)  # once before, so that libraries have what they keep
            Residency(1).drop_all()  # gives freed memory back
            before, peak, done = anonymous(), 0, threading.Event()

            def watch():
                nonlocal peak
                while not done.wait(0.0005):
                    peak = max(peak, anonymous())

            watcher = threading.Thread(target=watch)
            watcher.start()
            network = held(path, shape, target)
            done.set()
            watcher.join()
            after = anonymous()
            print(after - before, max(peak, after) - before)

        growth(Path(sys.argv[1]), torch.float32, torch.float32)
        growth(Path(sys.argv[1]), torch.float16, torch.bfloat16)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "x")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    views, converted = ([float(number) for number in line.split()] for line in done.stdout.splitlines())
    assert views[1] < 4, "MiB at most for 60 MiB of views"
    assert 50 < converted[0] < 80, "MiB kept for 60 MiB of bfloat16"
    assert converted[1] < converted[0] + 8, "MiB at most while converting: four blocks more than what is kept"
