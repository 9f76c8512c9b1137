"""GGUF files, held against the `gguf` package, and every kind of bad one told by its name."""

import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from backend.errors import BadCheckpoint, UnsupportedCheckpoint
from backend.nn.layers import Conv2d, Linear
from backend.weights.ggml_formats import FORMATS, PLAIN
from backend.weights.gguf_file import open_gguf
from backend.weights.weight_file import open_weights

PACKED = [GGMLQuantizationType(number) for number in FORMATS]
RNG = np.random.default_rng(0)


def packed_rows(kind: GGMLQuantizationType, rows: int, numbers: int) -> np.ndarray:
    """Random bytes whose float16 scales are finite: every pattern of codes, scales and minima."""
    block_numbers, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = RNG.integers(0, 256, (rows * numbers // block_numbers, block_bytes), dtype=np.uint8)
    scales = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
    for begin in scales.get(kind.name, (0, 2) if kind.name.endswith("_1") else (0,)):
        values = RNG.normal(size=(len(blocks), 1)).astype(np.float16)
        blocks[:, begin : begin + 2] = values.view(np.uint8)
    return blocks.reshape(rows, -1)


def write_gguf(path: Path, tensors, architecture: str = "flux", shapes=()) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("general.name", "a test")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "cd"])
    for name, shape in dict(shapes).items():
        writer.add_array(f"comfy.gguf.orig_shape.{name}", shape)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def good(tmp_path) -> Path:
    weight = packed_rows(GGMLQuantizationType.Q4_K, 3, 512)
    bias = np.arange(3, dtype=np.float32)
    return write_gguf(tmp_path / "good.gguf", {"a.weight": (weight, GGMLQuantizationType.Q4_K), "a.bias": (bias, None)})


# Numbers


@pytest.mark.parametrize("kind", PACKED, ids=lambda kind: kind.name)
def test_packed_numbers_are_those_of_the_package_bit_for_bit(tmp_path, kind):
    rows = packed_rows(kind, 5, 1024)
    expected = torch.from_numpy(gguf.dequantize(rows, kind))
    source = open_gguf(write_gguf(tmp_path / "x.gguf", {"w": (rows, kind)}))
    packing = source.packing("w")
    assert packing is not None
    assert packing.name == kind.name
    assert source.spec("w").shape == (5, 1024)
    assert torch.equal(source.read("w").view(torch.int32), expected.view(torch.int32))
    stored = source.read_storage("w")
    assert stored.numel() == source.storage_bytes("w") == rows.size
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        unpacked = packing.unpack(stored.view(-1, packing.row_bytes)[1:4], dtype)
        assert torch.equal(unpacked, expected[1:4].to(dtype))
        out = torch.empty(5, 1024, dtype=dtype)
        source.read_into("w", out)
        assert torch.equal(out, expected.to(dtype))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_weights_that_the_package_packs_come_back_as_close_as_their_bits_allow(tmp_path, kind):
    weight = RNG.normal(size=(8, 64)).astype(np.float32)
    rows = gguf.quantize(weight, GGMLQuantizationType[kind])
    source = open_gguf(write_gguf(tmp_path / "x.gguf", {"w": (rows, GGMLQuantizationType[kind])}))
    error = (source.read("w") - torch.from_numpy(weight)).square().mean().sqrt()
    assert error < {"Q4": 0.12, "Q5": 0.06, "Q8": 0.01}[kind[:2]]


def test_plain_numbers_are_views_of_the_file_under_their_names_with_their_shapes(tmp_path):
    tensors = {
        "float": RNG.normal(size=(2, 3, 4)).astype(np.float32),
        "half": RNG.normal(size=(3, 5)).astype(np.float16),
        "count": np.arange(4, dtype=np.int64),
        "double": RNG.normal(size=3),
    }
    brain = torch.randn(2, 7).bfloat16()
    items = {name: (value, None) for name, value in tensors.items()}
    items["brain"] = (brain.view(torch.uint8).numpy(), GGMLQuantizationType.BF16)
    source = open_gguf(write_gguf(tmp_path / "x.gguf", items))
    assert list(source.keys()) == list(items)
    for name, value in tensors.items():
        assert torch.equal(source.read(name), torch.from_numpy(value))
        assert source.read(name).data_ptr() == source.read_storage(name).data_ptr()
        assert source.packing(name) is None
    assert torch.equal(source.read("brain"), brain)
    out = torch.empty(2, 7)
    source.read_into("brain", out)
    assert torch.equal(out, brain.float())
    assert source.metadata["general.name"] == "a test"
    assert source.metadata["general.architecture"] == "flux"


def test_kernels_that_were_stored_flat_have_their_shape_again(tmp_path):
    """[2, 4, 3, 3] as one row of 256 numbers less: two outputs share a block, so that they cannot be held packed."""
    kind = GGMLQuantizationType.Q8_0
    rows = packed_rows(kind, 1, 96)
    source = open_gguf(write_gguf(tmp_path / "x.gguf", {"w": (rows, kind)}, shapes={"w": [4, 6, 2, 2]}))
    expected = torch.from_numpy(gguf.dequantize(rows, kind)).view(4, 6, 2, 2)
    assert source.spec("w").shape == (4, 6, 2, 2)
    assert source.packing("w") is None
    assert torch.equal(source.read("w"), expected)
    assert source.storage_bytes("w") == expected.nbytes
    stored = torch.empty(expected.nbytes, dtype=torch.uint8)
    source.read_storage_into("w", stored)
    assert torch.equal(stored, source.read_storage("w"))
    assert torch.equal(stored.view(torch.float32).view(4, 6, 2, 2), expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", PACKED, ids=lambda kind: kind.name)
def test_layers_unpack_what_they_use(tmp_path, kind):
    rows = packed_rows(kind, 70, 2304)
    tensors = {"linear.weight": (rows, kind), "conv.weight": (rows, kind)}
    source = open_gguf(write_gguf(tmp_path / "x.gguf", tensors, shapes={"conv.weight": [70, 256, 3, 3]}))
    x = torch.randn(3, 2304)
    image = torch.randn(1, 256, 5, 5)
    linear, conv = Linear(2304, 70, bias=False), Conv2d(256, 70, 3, bias=False)
    for name, layer, values in (("linear.weight", linear, x), ("conv.weight", conv, image)):
        layer.weight = nn.Parameter(source.read(name))
        expected = layer(values)
        hold_packed(layer, source, name)
        assert (layer(values) - expected).abs().max() < 1e-5 * expected.abs().max()


def hold_packed(layer: Linear | Conv2d, source, key: str) -> None:
    packing = source.packing(key)
    assert packing is not None
    layer.weight = nn.Parameter(source.read_storage(key).view(-1, packing.row_bytes), requires_grad=False)
    layer.unpack_weight = packing.unpack


# Files that are something else, damaged or hostile


@pytest.mark.parametrize("architecture", ["llama", "wan", "qwen_image"])
def test_an_architecture_that_is_not_run_is_refused_by_its_name(tmp_path, architecture):
    path = write_gguf(tmp_path / "x.gguf", {"w": (np.ones(3, np.float32), None)}, architecture)
    with pytest.raises(UnsupportedCheckpoint, match=f"x.gguf: it is a GGUF file of the architecture '{architecture}"):
        open_weights(path)


def test_a_file_that_does_not_say_its_architecture_is_opened(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(raw_gguf(facts=b"", num_facts=0))
    assert torch.equal(open_weights(path).read("w"), torch.zeros(4))


def test_a_number_format_that_is_not_read_is_told(tmp_path):
    data = np.zeros((1, 136), dtype=np.uint8)
    path = write_gguf(tmp_path / "x.gguf", {"w": (data, GGMLQuantizationType.IQ4_XS)})
    with pytest.raises(UnsupportedCheckpoint, match='"w" is stored as IQ4_XS'):
        open_weights(path)


def test_the_formats_of_the_file_are_those_of_the_package():
    sizes = {kind.value: gguf.GGML_QUANT_SIZES[kind] for kind in GGMLQuantizationType}
    for number, format in FORMATS.items():
        assert (format.block_numbers, format.block_bytes) == sizes[number]
        assert GGMLQuantizationType(number).name == format.name
    assert all(sizes[number] == (1, dtype.itemsize) for number, dtype in PLAIN.items())


def test_a_file_that_is_cut_off_anywhere_is_told(good, tmp_path):
    content = good.read_bytes()
    last = len(content) - 20  # the rest is padding of the last tensor
    cut = tmp_path / "cut.gguf"
    for length in [*range(4, 400), *range(400, last, 7)]:
        cut.write_bytes(content[:length])
        with pytest.raises(BadCheckpoint, match=r"cut off|ends inside its header"):
            open_weights(cut)


TEXT = struct.pack("<Q", 1) + b"w"
W = TEXT + struct.pack("<IQIQ", 1, 4, 0, 0)  # four numbers of float32
ARCHITECTURE = struct.pack("<Q", 20) + b"general.architecture" + struct.pack("<IQ", 8, 4) + b"flux"


def raw_gguf(
    *, version=3, tensors=W, num_tensors=1, facts=ARCHITECTURE, num_facts=1, data=bytes(16), alignment=32
) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_facts) + facts + tensors
    return header + bytes(-len(header) % alignment) + data


def fact(name: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value


def info(*, name: bytes = TEXT, lengths=(4,), kind: int = 0, begin: int = 0) -> bytes:
    return name + struct.pack(f"<I{len(lengths)}QIQ", len(lengths), *lengths, kind, begin)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"version": 1}, UnsupportedCheckpoint, "version 1"),
        ({"version": 0x03000000}, UnsupportedCheckpoint, "versions 2 and 3"),
        ({"num_tensors": 2**40}, BadCheckpoint, "lists 1,099,511,627,776 tensors"),
        ({"num_facts": 2**62}, BadCheckpoint, "facts"),
        ({"tensors": struct.pack("<Q", 2**63)}, BadCheckpoint, "a text in its header is larger"),
        ({"tensors": struct.pack("<Q", 2**21)}, BadCheckpoint, "ends inside its header"),
        ({"tensors": info(name=struct.pack("<Q", 1) + b"\xff")}, BadCheckpoint, "cannot be read"),
        ({"tensors": info(name=struct.pack("<Q", 1) + b"\n")}, BadCheckpoint, "impossible name"),
        ({"tensors": info(lengths=(1, 1, 1, 1, 1))}, BadCheckpoint, "impossible shape"),
        ({"tensors": info(lengths=(2**40, 2**40))}, BadCheckpoint, "impossible shape"),
        ({"tensors": info(lengths=(0, 4))}, BadCheckpoint, "impossible shape"),
        ({"tensors": info(lengths=(2**30,))}, BadCheckpoint, "cut off"),
        ({"tensors": info(begin=32)}, BadCheckpoint, "cut off"),
        ({"tensors": info(begin=2**63)}, BadCheckpoint, "cut off"),
        ({"tensors": info(lengths=(4, 32), kind=2)}, BadCheckpoint, "no whole blocks"),
        ({"tensors": info(lengths=(), kind=2)}, BadCheckpoint, "no whole blocks"),
        ({"tensors": info(kind=4)}, UnsupportedCheckpoint, "type 4"),
        ({"tensors": W + W, "num_tensors": 2}, BadCheckpoint, "overlap"),
        ({"tensors": W + info(begin=16), "num_tensors": 2, "data": bytes(32)}, BadCheckpoint, "twice"),
        ({"facts": ARCHITECTURE * 2, "num_facts": 2}, BadCheckpoint, "twice"),
        ({"facts": fact("a", 13, b"")}, BadCheckpoint, "unknown type"),
        ({"facts": fact("a", 9, struct.pack("<IQ", 9, 1))}, BadCheckpoint, "impossible list"),
        ({"facts": fact("a", 9, struct.pack("<IQ", 4, 2**60))}, BadCheckpoint, "impossible list"),
        ({"facts": fact("general.alignment", 4, struct.pack("<I", 0))}, BadCheckpoint, "alignment"),
        ({"facts": fact("general.alignment", 8, TEXT)}, BadCheckpoint, "alignment"),
        ({"facts": fact("comfy.gguf.orig_shape.w", 9, struct.pack("<IQii", 5, 2, -2, -2))}, BadCheckpoint, "original"),
        ({"facts": fact("comfy.gguf.orig_shape.w", 9, struct.pack("<IQi", 5, 1, 3))}, BadCheckpoint, "original"),
        ({"facts": fact("comfy.gguf.orig_shape.w", 8, TEXT)}, BadCheckpoint, "original"),
    ],
)
def test_a_damaged_or_hostile_header_is_told(tmp_path, change, error, words):
    path = tmp_path / "x.gguf"
    path.write_bytes(raw_gguf(**change))
    began = time.process_time()
    with pytest.raises(error, match=words):
        open_weights(path)
    assert time.process_time() - began < 0.5


@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(4, 300), st.binary(min_size=1, max_size=3)), min_size=1, max_size=4))
def test_a_mutated_file_opens_or_raises_a_file_error(good, edits):
    content = bytearray(good.read_bytes())
    for place, value in edits:
        content[place : place + len(value)] = value
    path = good.with_name("mutated.gguf")
    path.write_bytes(content)
    try:
        source = open_weights(path)
    except (BadCheckpoint, UnsupportedCheckpoint):
        return
    for name in source.keys():
        assert source.read(name).shape == source.spec(name).shape


def test_a_file_that_changed_since_it_was_opened_is_refused(good):
    source = open_weights(good)
    good.write_bytes(good.read_bytes() + b"x")
    out: Tensor = torch.empty(3, 512)
    for read in (source.read, lambda key: source.read_into(key, out)):
        with pytest.raises(BadCheckpoint, match="it changed on the disk"):
            read("a.weight")
