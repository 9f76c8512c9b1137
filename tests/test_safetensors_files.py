"""safetensors files: held against the library both ways, and every kind of bad file told by its name."""

import errno
import json
import mmap
import os
import pickle
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import BadCheckpoint, OutputError, PickleRefused, UnsupportedCheckpoint
from backend.weights.safetensors_file import open_safetensors, write_safetensors
from backend.weights.safetensors_header import DTYPES, MAX_NAME_BYTES

ROOT = Path(__file__).resolve().parents[1]
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def sample(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """A tensor of any dtype with bytes that are valid in it."""
    count = torch.Size(shape).numel()
    if dtype == torch.bool:
        return (torch.arange(count) % 2 == 0).view(shape)
    return torch.arange(count * dtype.itemsize).remainder(100).to(torch.uint8).view(dtype).view(shape)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    def raw(x: torch.Tensor) -> torch.Tensor:
        return x.contiguous().flatten().view(torch.uint8)

    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(raw(a), raw(b))


def write_raw(path, header: object, data: bytes = b"", *, length: int | None = None):
    """A file with any header: text, bytes, or something that is written as JSON."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def entry(begin: int, end: int, shape=None, dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.safetensors"
    write_safetensors(path, {"a": sample(torch.float16, 3, 5), "b": sample(torch.float32, 4)}, {"title": "x"})
    return path


# Round trips


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_we_read_what_the_library_writes(tmp_path, dtype):
    tensors = {"weight": sample(dtype, 3, 4), "empty": sample(dtype, 0, 4), "scalar": sample(dtype)}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", metadata={"k": "v"})
    source = open_safetensors(tmp_path / "x.safetensors")
    assert set(source.keys()) == set(tensors)
    assert source.metadata == {"k": "v"}
    for name, tensor in tensors.items():
        out = torch.empty(tensor.shape, dtype=dtype)
        source.read_into(name, out)
        assert source.spec(name).shape == tuple(tensor.shape)
        assert same(source.read(name), tensor)
        assert same(out, tensor)


def test_the_library_reads_what_we_write(tmp_path):
    tensors = {f"t{i}": sample(dtype, 2, 3 + i) for i, dtype in enumerate(DTYPES.values())}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(3, 0), "transposed": sample(torch.float32, 4, 6).T}
    write_safetensors(tmp_path / "x.safetensors", tensors, {"a": "1", "unicode": "\u732b"})
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"a": "1", "unicode": "\u732b"}
        assert set(file.keys()) == set(tensors)
        assert all(same(file.get_tensor(name), tensor) for name, tensor in tensors.items())


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.float16)}
    write_safetensors(tmp_path / "1", tensors, {"x": "1", "y": "2"})
    write_safetensors(tmp_path / "2", dict(reversed(tensors.items())), {"y": "2", "x": "1"})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_data_that_are_not_aligned_are_read(tmp_path):
    values = torch.arange(4, dtype=torch.float32)
    header = {"byte": entry(0, 1), "values": entry(1, 17, [4], "F32")}
    path = write_raw(tmp_path / "x", header, b"\x07" + values.numpy().tobytes())
    assert torch.equal(open_safetensors(path).read("values"), values)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(1,), (700, 3), (2, 3, 600, 600), (1, 3 * 2**20)], ids=str)
def test_reading_into_another_type_converts_block_by_block(tmp_path, dtype, shape):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    write_safetensors(tmp_path / "x", {"x": tensor})
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    out = torch.empty(shape, dtype=torch.bfloat16, memory_format=layout)
    open_safetensors(tmp_path / "x").read_into("x", out)
    assert torch.equal(out, tensor.to(torch.bfloat16))


def test_a_view_of_a_file_is_not_written_back(good):
    before = good.read_bytes()
    open_safetensors(good).read("a").zero_()
    assert good.read_bytes() == before


def test_without_a_mapping_tensors_are_read_into_memory(good, monkeypatch):
    expected = open_safetensors(good).read("b").clone()

    def refuse(*_args, **_kwargs):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert torch.equal(open_safetensors(good).read("b"), expected)


def test_identities_differ_between_tensors_and_between_versions_of_a_file(good):
    source = open_safetensors(good)
    assert source.identity("a") != source.identity("b")
    assert source.identity("a") == open_safetensors(good).identity("a")
    write_safetensors(good, {"a": torch.zeros(3)})
    assert source.identity("a") != open_safetensors(good).identity("a")


def test_what_a_file_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    for tensors in (
        {"": torch.ones(1), "a\nb": torch.ones(1)},
        {"__metadata__": torch.ones(1)},
        {"n" * 513: torch.ones(1)},
    ):
        with pytest.raises(OutputError, match="cannot be named"):
            write_safetensors(tmp_path / "x", tensors)
    with pytest.raises(OutputError, match="complex128"):
        write_safetensors(tmp_path / "x", {"a": torch.ones(1, dtype=torch.complex128)})
    assert not list(tmp_path.iterdir())


# Files that are something else


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"", BadCheckpoint, "empty"),
        (b"\x01", BadCheckpoint, "cut off"),
        (b"a girl with a cat, best quality\n", BadCheckpoint, "text file"),
        ("ein Mädchen mit Katze".encode(), BadCheckpoint, "text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", BadCheckpoint, "LFS pointer"),
        (b"<!DOCTYPE html><html><head><title>Log in</title>", BadCheckpoint, "web page"),
        (b"\xef\xbb\xbf\r\n<html>", BadCheckpoint, "web page"),
        (b"Entry not found", BadCheckpoint, "error message"),
        (b'{"error":"Access denied"}', BadCheckpoint, "error message"),
        (b"GGUF\x03\x00\x00\x00" + bytes(40), UnsupportedCheckpoint, "GGUF"),
        (b"PK\x03\x04" + bytes(60), PickleRefused, "PyTorch archive"),
        (pickle.dumps({"a": 1}, protocol=2), PickleRefused, "pickle"),
        (pickle.dumps({"a": 1}, protocol=5), PickleRefused, "pickle"),
        (bytes(range(128, 255)), BadCheckpoint, "does not begin with a header"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00", BadCheckpoint, "does not begin with a header"),
    ],
    ids=lambda value: value[:12].hex() if isinstance(value, bytes) else None,
)
def test_another_kind_of_file_is_told_by_its_name(tmp_path, content, error, words):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(error, match=words) as raised:
        open_safetensors(path)
    assert raised.value.path == path
    assert str(raised.value).startswith("model.safetensors: ")


@pytest.mark.parametrize("save_as_zip", [True, False], ids=["zip", "legacy"])
def test_a_pickle_renamed_to_safetensors_is_refused_with_the_remedy(tmp_path, save_as_zip):
    path = tmp_path / "model.safetensors"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=save_as_zip)
    with pytest.raises(PickleRefused, match=r"\./launch\.sh convert model\.safetensors"):
        open_safetensors(path)


@pytest.mark.parametrize("length", [0x0280, 0x0480, 0x4B50, 0x3C, 0x7B])
def test_a_header_whose_length_looks_like_the_start_of_another_format_is_read(tmp_path, length):
    path = write_raw(tmp_path / "x", json.dumps({"a": entry(0, 3)}).encode().ljust(length), b"abc")
    assert open_safetensors(path).keys() == ("a",)


def test_missing_files_folders_and_pipes_are_told(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("missing", "is not in"), ("pipe", "no file"), (".", "no file")):
        with pytest.raises(BadCheckpoint, match=words):
            open_safetensors(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_told(good):
    good.chmod(0)
    with pytest.raises(BadCheckpoint, match="Permission denied"):
        open_safetensors(good)


def test_a_disk_that_fails_while_reading_is_told(good, monkeypatch):
    source = open_safetensors(good)

    def fail(*_args, **_kwargs):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(BadCheckpoint, match="Input/output error"):
        open_safetensors(good)
    with pytest.raises(BadCheckpoint, match="Input/output error"):
        source.read("a")


# Damaged and hostile headers


def test_a_file_that_is_cut_off_anywhere_is_told(good, tmp_path):
    content = good.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(BadCheckpoint, match=r"cut off|ends inside its header"):
            open_safetensors(cut)


def test_bytes_behind_the_last_tensor_are_told(good):
    good.write_bytes(good.read_bytes() + b"12345")
    with pytest.raises(BadCheckpoint, match="5 bytes too many"):
        open_safetensors(good)


def test_a_name_that_stands_twice_is_told(tmp_path):
    one = json.dumps(entry(0, 1))
    path = write_raw(tmp_path / "x", f'{{"a.weight":{one},"b":{one},"a.weight":{one}}}'.encode(), b"1")
    with pytest.raises(BadCheckpoint, match=r"'a\.weight' stands there twice"):
        open_safetensors(path)
    path = write_raw(tmp_path / "x", b'{"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}}', b"1")
    with pytest.raises(BadCheckpoint, match="'shape' stands there twice"):
        open_safetensors(path)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"{", "cannot be read"),
        (b'{"a":}', "cannot be read"),
        (b"{}{}", "cannot be read"),
        (b'{"\xff":{}}', "cannot be read"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "cannot be read|cannot be"),
        ({"a": 5}, "entry of"),
        ({"a": {"dtype": "U8", "shape": [1]}}, "entry of"),
        ({"a": {"dtype": 1, "shape": [1], "data_offsets": [0, 1]}}, "entry of"),
        ({"a": {"dtype": "U8", "shape": 1, "data_offsets": [0, 1]}}, "entry of"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}}, "entry of"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1.0]}}, "entry of"),
        ({"a": entry(0, 1, [True])}, "impossible shape"),
        ({"a": entry(0, 1, [1.0])}, "impossible shape"),
        ({"a": entry(0, 1, [-1])}, "impossible shape"),
        ({"a": entry(0, 1, [[1]])}, "impossible shape"),
        ({"a": entry(0, 1, [1] * 17)}, "impossible shape"),
        ({"a": entry(0, 0, [0, 2**40, 2**40])}, "impossible shape"),
        ({"a": entry(0, 1, [2**70])}, "impossible shape"),
        ({"a": entry(0, 1, [2])}, "size of its shape"),
        ({"a": entry(-1, 0)}, "size of its shape"),
        ({"a": entry(False, True, [1])}, "size of its shape"),
        ({"a": entry(0, 4, [1], "F16")}, "size of its shape"),
        ({"a": entry(1, 2)}, "overlap others or leave a gap"),
        ({"a": entry(0, 2), "b": entry(1, 3)}, "overlap others or leave a gap"),
        ({"a": entry(0, 1), "b": entry(2, 3)}, "overlap others or leave a gap"),
        ({"a": entry(0, 2), "b": entry(1, 1)}, "overlap others or leave a gap"),
        ({"a": entry(0, 2**40, [2**40])}, "cut off"),
        ({"a\n": entry(0, 1)}, "impossible name"),
        ({"a\x1b[31m": entry(0, 1)}, "impossible name"),
        ({"\ud800": entry(0, 1)}, "impossible name"),
        ({"n" * (MAX_NAME_BYTES + 1): entry(0, 1)}, "impossible name"),
        ({"__metadata__": []}, "no texts"),
        ({"__metadata__": {"a": 1}}, "no texts"),
        ({"__metadata__": {"a": None}}, "no texts"),
        ({"__metadata__": {"a": {"b": "c"}}}, "no texts"),
        ({"__metadata__": {"a": "\ud800"}}, "no texts"),
        ({"__metadata__": {"x" * (4 * 2**20 + 1): "a"}}, "larger than any"),
        ({"__metadata__": {str(i): "x" * 2**20 for i in range(17)}}, "larger than any"),
    ],
    ids=lambda value: str(value)[:40] if not isinstance(value, str) else None,
)
def test_a_damaged_header_is_told(tmp_path, header, words):
    with pytest.raises(BadCheckpoint, match=words):
        open_safetensors(write_raw(tmp_path / "x.safetensors", header, b"123"))


def test_of_metadata_that_are_too_large_the_names_are_kept_and_the_tensors_are_read(tmp_path):
    texts = {"kept": "x" * 4 * 2**20, "tags": "x" * (4 * 2**20 + 1), "more": "x" * 9 * 2**20}
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": torch.ones(2)}, texts)
    file = open_safetensors(path)
    assert file.metadata == {"kept": texts["kept"]}
    assert file.left_out == {"tags": 4 * 2**20 + 1, "more": 9 * 2**20}
    assert file.read("a").tolist() == [1, 1]


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "Q8", ""])
def test_a_data_type_that_is_not_read_is_told(tmp_path, dtype):
    with pytest.raises(UnsupportedCheckpoint, match="is stored as"):
        open_safetensors(write_raw(tmp_path / "x", {"a": entry(0, 1, [2], dtype)}, b"1"))


TOO_LONG = 93 * 2**20
BOMBS = {
    "1.4 million tensors": (
        b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,0]},'.ljust(TOO_LONG, b" "),
        "larger than any",
    ),
    "tensors": (b"{" + b'"a":{"dtype":"U8","shape":[],"data_offsets":[0,0]},' * 600_000 + b"}", "lists more than"),
    "objects": (b'{"a":[' + b"{}," * 10_000_000 + b"0]}", "lists more than"),
    "lists": (b'{"a":[' + b"[]," * 10_000_000 + b"0]}", "lists more than"),
    "numbers": (b'{"a":[' + b"0," * 15_000_000 + b"0]}", "lists more than"),
    "metadata": (b'{"__metadata__":{' + b'"a":"",' * 4_000_000 + b'"b":""}}', "lists more than"),
    "one number": (b'{"a":' + b"9" * 30_000_000 + b"}", "cannot be read"),
    "one name": (b'{"' + b"a" * 30_000_000 + b'":0}', "impossible name"),
    "depth": (b'{"a":' * 190_000 + b"0" + b"}" * 190_000, "cannot be read"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_header_that_is_made_to_hurt_is_refused_at_once(tmp_path, kind):
    header, words = BOMBS[kind]
    path = write_raw(tmp_path / "bomb.safetensors", header)
    begin = time.process_time()
    with pytest.raises(BadCheckpoint, match=words):
        open_safetensors(path)
    assert time.process_time() - begin < 0.5


def test_searching_a_duplicate_among_many_names_is_quick(tmp_path):
    names = [*(f"tensor.{i}" for i in range(60_000)), "tensor.59999"]
    header = "{" + ",".join(f'"{name}":0' for name in names) + "}"
    begin = time.process_time()
    with pytest.raises(BadCheckpoint, match="stands there twice"):
        open_safetensors(write_raw(tmp_path / "x", header.encode()))
    assert time.process_time() - begin < 0.5


MUTABLE = {
    "a": entry(0, 6, [3], "F16"),
    "model.b": entry(6, 14, [2, 1], "F32"),
    "empty": entry(14, 14, [0, 4]),
    "__metadata__": {"title": "t"},
}


@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.sampled_from("sdi"), st.integers(0, 260), st.one_of(st.binary(max_size=3), st.sampled_from(
            [b'"', b"{", b"}", b"[", b",", b"-", b"\\", b"1e9", b"null", b"99999999999999999999", b"\x00"])))
        , max_size=4),
    st.integers(-20, 20),
)  # fmt: skip
def test_a_mutated_file_opens_or_raises_a_file_error(tmp_path, edits, change):
    raw = json.dumps(MUTABLE).encode()
    content = bytearray(len(raw).to_bytes(8, "little") + raw + bytes(range(14)))
    for kind, place, value in edits:
        place %= len(content)
        if kind == "s":
            content[place : place + len(value)] = value
        elif kind == "d":
            del content[place : place + len(value)]
        else:
            content[place:place] = value
    if edits:
        content[:8] = max(0, int.from_bytes(content[:8], "little") + change).to_bytes(9, "little")[:8]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    try:
        source = open_safetensors(path)
    except (BadCheckpoint, PickleRefused, UnsupportedCheckpoint):
        return
    for name in source.keys():
        assert source.read(name).shape == source.spec(name).shape
    safetensors.torch.load(bytes(content))  # what we accept, the library accepts, too


# Files that change, and large ones


@pytest.mark.parametrize("change", ["shorten", "lengthen", "replace", "remove"])
def test_a_file_that_changed_since_it_was_opened_is_refused(good, change):
    source = open_safetensors(good)
    match change:
        case "shorten":
            os.truncate(good, 100)
        case "lengthen":
            good.write_bytes(good.read_bytes() + b"x")
        case "replace":
            write_safetensors(good, {"a": torch.ones(3)})
        case _:
            good.unlink()
    for read in (source.read, lambda key: source.read_into(key, torch.empty(3, 5))):
        with pytest.raises(BadCheckpoint, match="it changed on the disk"):
            read("a")


def test_a_file_that_is_cut_off_while_it_is_read_does_not_end_the_process(tmp_path):
    script = """
        import os, sys, threading, torch
        from pathlib import Path
        from backend.errors import BadCheckpoint
        from backend.weights.safetensors_file import open_safetensors, write_safetensors
        torch.set_num_threads(1)
        path, told = Path(sys.argv[1]), 0
        tensors = {"a": torch.ones(8 * 2**20, dtype=torch.float16)}
        out = torch.empty(8 * 2**20, dtype=torch.bfloat16)
        for attempt in range(40):
            write_safetensors(path, tensors)
            source = open_safetensors(path)
            timer = threading.Timer(0.0004 * attempt, os.truncate, (path, 4096))
            timer.start()
            try:
                source.read_into("a", out)
            except BadCheckpoint:
                told += 1
            timer.join()
        print(told)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "x.safetensors")],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_opening_two_gigabytes_reads_the_header_only(tmp_path):
    path = tmp_path / "big.safetensors"
    size = 3 * 2**30
    header = {f"t{i}": entry(i * size // 1000, (i + 1) * size // 1000) for i in range(1000)}
    write_raw(path, header)
    os.truncate(path, path.stat().st_size + size)
    script = """
        import sys, time
        from pathlib import Path
        from backend.weights.safetensors_file import open_safetensors
        def resident():
            lines = Path("/proc/self/status").read_text().splitlines()
            return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
        before, begin = resident(), time.process_time()
        source = open_safetensors(Path(sys.argv[1]))
        print(len(source.keys()), time.process_time() - begin, resident() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=True,
    )
    count, seconds, kilobytes = done.stdout.split()
    assert int(count) == 1000
    assert float(seconds) < 1
    assert int(kilobytes) < 20 * 1024
