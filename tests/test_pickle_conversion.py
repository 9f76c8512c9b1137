"""Legacy pickles become safetensors files on request, in a process of their own, and nothing in them ever runs."""

import functools
import io
import json
import os
import pickle
import pkgutil
import re
import struct
import subprocess
import sys
import textwrap
import time
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import BadCheckpoint, DiskFull, OutputError, PickleRefused, UnsupportedCheckpoint
from backend.weights.pickle_child import read_pickle
from backend.weights.pickle_conversion import convert_pickle
from backend.weights.safetensors_file import open_safetensors, write_safetensors

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")

ROOT = Path(__file__).resolve().parents[1]


def weights() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.randn(3, 4), "b": torch.ones(2, dtype=torch.float16), "c": torch.arange(3)}


class Call:
    """Pickles to a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call

    def __call__(self):
        """Only what can be called may stand in the place of a function."""


# Whole conversions: a process is started, which takes seconds, so each does several things


def test_a_checkpoint_as_trainers_write_it_is_converted(tmp_path, monkeypatch, caplog):
    """The state of a training around the weights, shared and transposed tensors, a name with blanks and umlauts."""
    path = tmp_path / "mein Modell \u00fc.ckpt"
    shared = torch.randn(4, 4)
    state = OrderedDict(weights(), shared=shared, transposed=shared.T, part=shared[1:3], note="text", count=5)
    torch.save({"state_dict": state, "global_step": np.int64(470000), "epoch": 3}, path)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid")
    assert convert_pickle(path) == path.with_suffix(".safetensors")
    source = open_safetensors(path.with_suffix(".safetensors"))
    assert set(source.keys()) == {*weights(), "shared", "transposed", "part"}
    assert torch.equal(source.read("transposed"), shared.T)
    assert torch.equal(source.read("part"), shared[1:3])
    assert source.read("b").dtype == torch.float16
    assert source.metadata["emulsion.left_out"] == "note, count, global_step, epoch"
    assert "note, count, global_step, epoch" in caplog.text

    with pytest.raises(OutputError, match="exists already"):
        convert_pickle(path)


def test_a_hostile_file_is_refused_and_an_existing_file_kept(tmp_path):
    canary, path, output = tmp_path / "canary", tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    torch.save({"a": torch.ones(2), "b": Call(os.system, f"touch {canary}")}, path)
    output.write_bytes(b"mine")
    with pytest.raises(PickleRefused, match=r"asks for posix\.system") as raised:
        convert_pickle(path, output, replace=True)
    assert raised.value.path == path
    assert output.read_bytes() == b"mine"
    assert not canary.exists()


def test_what_is_no_pickle_is_not_converted(tmp_path):
    write_safetensors(tmp_path / "renamed.ckpt", weights())
    with pytest.raises(UnsupportedCheckpoint, match="safetensors file already"):
        convert_pickle(tmp_path / "renamed.ckpt")
    (tmp_path / "page.pt").write_bytes(b"<html>Not found</html>")
    with pytest.raises(BadCheckpoint, match="web page"):
        convert_pickle(tmp_path / "page.pt")
    with pytest.raises(BadCheckpoint, match="is not in"):
        convert_pickle(tmp_path / "missing.pt")


def test_a_file_is_never_converted_onto_itself(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.save(weights(), path)
    content = path.read_bytes()
    for replace in (False, True):
        with pytest.raises(OutputError, match="Choose another name"):
            convert_pickle(path, replace=replace)
    assert path.read_bytes() == content


def test_a_conversion_that_takes_too_long_is_given_up(tmp_path):
    torch.save(weights(), tmp_path / "model.pt")
    with pytest.raises(BadCheckpoint, match=r"longer than 0\.05 seconds"):
        convert_pickle(tmp_path / "model.pt", timeout=0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def run_child(script: str, *arguments: object) -> str:
    """What a process prints that has imported the converter."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_works_without_limits_where_the_system_has_none(tmp_path):
    torch.save(weights(), tmp_path / "model.pt")
    script = """
        import runpy, sys
        sys.modules["resource"] = None  # as on Windows
        runpy.run_module("backend.weights.pickle_child", run_name="__main__")
    """
    output = tmp_path / "x.safetensors"
    assert json.loads(run_child(script, tmp_path / "model.pt", output, "keep", 60)) == {"left_out": []}
    assert set(open_safetensors(output).keys()) == set(weights())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell how much is mapped")
def test_the_process_is_limited():
    script = """
        import resource, threading
        from backend.weights.process_limits import limit_process
        limit_process(more_memory=2**28, seconds=50, file_bytes=1000, open_files=20)
        limit_process(more_memory=2**40, seconds=5000, file_bytes=10**6, open_files=200)
        kinds = ("CORE", "CPU", "FSIZE", "NOFILE")
        print(*(resource.getrlimit(getattr(resource, "RLIMIT_" + kind)) for kind in kinds))
        try:
            bytearray(2**29)
        except MemoryError:
            print("no memory")
    """
    assert run_child(script).splitlines() == ["(0, 0) (50, 50) (1000, 1000) (20, 20)", "no memory"]


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A function that puts `code` in the place of the process that reads pickles."""

    def stand_in(code: str) -> None:
        package = tmp_path / "backend" / "weights"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "pickle_child.py").write_text(code)
        monkeypatch.setattr("backend.weights.pickle_conversion._ROOT", tmp_path)
        torch.save(weights(), tmp_path / "model.pt")

    return stand_in


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os; os.kill(os.getpid(), 11)", "signal 11"),
        ("raise SystemError", "status 1"),
        ("print('no report')", "status 0"),
        ("print('{\"left_out\": 5}')", "status 0"),
        ("print('{\"left_out\": []}'); raise SystemExit(3)", "status 3"),
    ],
)
def test_a_reader_that_does_not_end_well_is_told(tmp_path, stand_in, code, how):
    stand_in(code)
    with pytest.raises(BadCheckpoint, match=rf"ended the converter \({how}\)"):
        convert_pickle(tmp_path / "model.pt")


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path, stand_in):
    stand_in('print(\'{"error": "DiskFull", "message": "The disk is full."}\')')
    part = tmp_path / ".model.safetensors.999999999.0123abcd.part"  # of a child that was killed
    part.touch()
    with pytest.raises(DiskFull, match=r"The disk is full\."):
        convert_pickle(tmp_path / "model.pt")
    assert not part.exists()


def test_the_process_sees_no_secrets(tmp_path, stand_in, monkeypatch):
    stand_in("import json, os; print(json.dumps({'error': 'BadCheckpoint', 'message': ' '.join(os.environ)}))")
    secrets = {"HF_TOKEN", "https_proxy", "ALL_PROXY", "AWS_SECRET_ACCESS_KEY", "EMULSION_TOKEN"}
    for name in secrets:
        monkeypatch.setenv(name, "x")
    with pytest.raises(BadCheckpoint) as raised:
        convert_pickle(tmp_path / "model.pt")
    names = set(raised.value.problem.split())
    assert "PATH" in names
    assert not secrets & names
    assert len(names) < 16


# What the reader accepts


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
def test_both_formats_are_read_and_the_step_count_of_numpy_left_out(tmp_path, as_zip):
    content = {"state_dict": weights(), "global_step": np.int64(5), "loss": np.float32(0.5), "best": np.bool_(True)}
    torch.save(content, tmp_path / "x", _use_new_zipfile_serialization=as_zip)
    tensors, left_out, _ = read_pickle(tmp_path / "x")
    assert tensors.keys() == weights().keys()
    assert left_out == ["global_step", "loss", "best"]


def test_the_names_that_older_numpys_wrote_are_read(tmp_path):
    torch.save(
        {"state_dict": weights(), "global_step": np.int64(5)}, tmp_path / "x", _use_new_zipfile_serialization=False
    )
    content = (tmp_path / "x").read_bytes()
    assert b"numpy._core.multiarray" in content
    (tmp_path / "x").write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_pickle(tmp_path / "x")[1] == ["global_step"]


def test_the_training_state_of_the_published_checkpoints_is_left_behind(tmp_path, monkeypatch):
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    with monkeypatch.context() as patch:
        for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
            patch.setitem(sys.modules, part, module)
        torch.save({"state_dict": weights(), "callbacks": {module.ModelCheckpoint: {"best": None}}}, tmp_path / "x")
    tensors, left_out, _ = read_pickle(tmp_path / "x")
    assert tensors.keys() == weights().keys()
    assert left_out == ["callbacks"]


def test_weights_without_a_state_dict_around_them_are_read(tmp_path):
    torch.save(torch.nn.ParameterDict({"a": torch.ones(2)}).state_dict(), tmp_path / "x")
    tensors, left_out, _ = read_pickle(tmp_path / "x")
    assert tensors["a"].tolist() == [1, 1]
    assert not left_out


def test_what_a_safetensors_file_cannot_hold_is_left_out(tmp_path):
    content = {
        "plain": torch.ones(1),
        "sparse": torch.eye(3).to_sparse(),
        "complex": torch.ones(1, dtype=torch.complex128),
        5: torch.ones(1),
        "a\nb": torch.ones(1),
        "__metadata__": torch.ones(1),
        "nested": {"a": torch.ones(1)},
    }
    torch.save(content, tmp_path / "x")
    tensors, left_out, _ = read_pickle(tmp_path / "x")
    assert tensors.keys() == {"plain"}
    assert left_out == ["sparse", "complex", "5", "a\nb", "__metadata__", "nested"]


# What the reader refuses


@pytest.mark.parametrize(
    "content", [{}, [torch.ones(1)], torch.ones(1), {"a": 1}, {"state_dict": {"a": {"b": 1}}}, None]
)
def test_a_file_without_named_weights_is_told(tmp_path, content):
    torch.save(content, tmp_path / "x")
    with pytest.raises(BadCheckpoint, match="no weights under names"):
        read_pickle(tmp_path / "x")


def test_an_archive_that_grows_when_it_is_read_is_refused_before_it_is_read(tmp_path):
    torch.save({"a": torch.zeros(64 * 2**20, dtype=torch.uint8)}, tmp_path / "plain")
    with (
        zipfile.ZipFile(tmp_path / "plain") as plain,
        zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert (tmp_path / "bomb").stat().st_size < 100_000
    begin = time.process_time()
    with pytest.raises(BadCheckpoint, match="would grow to"):
        read_pickle(tmp_path / "bomb")
    assert time.process_time() - begin < 0.1


def test_a_small_file_that_claims_large_weights_is_refused(tmp_path):
    torch.save({"a": torch.ones(1).expand(2**40)}, tmp_path / "stretched")
    with pytest.raises(BadCheckpoint, match="claims 4,398,046,511,104 bytes"):
        read_pickle(tmp_path / "stretched")
    one = torch.ones(2**18)
    torch.save({str(i): one.view(-1) for i in range(10)}, tmp_path / "repeated")
    with pytest.raises(BadCheckpoint, match="claims 10,485,760 bytes"):
        read_pickle(tmp_path / "repeated")


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
def test_a_damaged_file_is_told(tmp_path, as_zip):
    torch.save({"state_dict": weights(), "s": np.int64(1)}, tmp_path / "good", _use_new_zipfile_serialization=as_zip)
    content = (tmp_path / "good").read_bytes()
    generator = np.random.default_rng(0)
    for attempt in range(150):
        damaged = bytearray(content)
        if attempt % 2:
            del damaged[generator.integers(5, len(content)) :]
        else:
            for place in generator.integers(0, min(len(content), 900), 3):
                damaged[place] = generator.integers(256)
        (tmp_path / "bad").write_bytes(damaged)
        try:
            read_pickle(tmp_path / "bad")
        except (BadCheckpoint, PickleRefused):
            continue


def archive(payload: bytes) -> bytes:
    """A file in PyTorch's format whose pickle is `payload`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in {"data.pkl": payload, "byteorder": b"little", "version": b"3\n"}.items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def text(value: str, *, short: bool = False) -> bytes:
    raw = value.encode()
    return b"\x8c" + bytes([len(raw)]) + raw if short else b"X" + struct.pack("<I", len(raw)) + raw


def hostile_payloads(canary: Path) -> dict[str, bytes]:
    """Pickles that create `canary` when they are read by Python's own reader."""
    touch = f"touch '{canary}'"
    code = f"open({str(canary)!r}, 'w').close()"
    calls = {
        "system": Call(os.system, touch),
        "exec": Call(exec, code),
        "eval": Call(eval, code),
        "subprocess": Call(subprocess.check_output, ["touch", str(canary)]),
        "open": Call(open, str(canary), "w"),
        "method": Call(Path.write_text, canary, "x"),
        "numpy": Call(np.ndarray.tofile, np.ones(1), str(canary)),
        "loads": Call(pickle.loads, pickle.dumps(Call(os.system, touch))),
        "partial": Call(functools.partial(os.system, touch)),
        "resolve_name": Call(Call(pkgutil.resolve_name, "os:system"), touch),
        "getattr": Call(Call(getattr, Call(__import__, "os"), "system"), touch),
    }
    payloads = {
        f"{name}, protocol {p}": pickle.dumps({"a": call}, protocol=p) for name, call in calls.items() for p in range(6)
    }
    system = b"cos\nsystem\n"
    os_system = text("os", short=True) + text("system", short=True) + b"\x93"
    return payloads | {
        "global": b"\x80\x02" + system + b"(" + text(touch) + b"tR.",
        "stack global": b"\x80\x04" + os_system + text(touch) + b"\x85R.",
        "stack global in a frame": b"\x80\x04\x95" + struct.pack("<Q", len(os_system) + 1) + os_system + b".",
        "instance": b"\x80\x02(" + text(touch) + b"ios\nsystem\n.",
        "object": b"\x80\x02(" + system + text(touch) + b"o.",
        "builtins": b"\x80\x02c__builtin__\nexec\n(" + text(code) + b"tR.",
        "torch's own os": b"\x80\x02ctorch.serialization\nos.system\n(" + text(touch) + b"tR.",
        "extension": b"\x80\x02\x82\x01.",
        "after the end": pickle.dumps({"a": 1}, protocol=2) + pickle.dumps(Call(os.system, touch), protocol=2),
        "cut off after the call": b"\x80\x02" + system + b"(" + text(touch) + b"tR",
        "as a key": b"\x80\x02}" + system + b"(" + text(touch) + b"tRNs.",
        "by build": b"\x80\x02cbuiltins\nobject\n)\x81}" + text("__setstate__") + system + b"sb" + text(touch) + b"b.",
        "by a numpy type": b"\x80\x02cnumpy\ndtype\n(" + text("O") + b"tR" + system + b"b.",
        "by a numpy number": b"\x80\x02cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(" + text("O") + b"tR"
        + pickle.dumps(Call(os.system, touch), protocol=2)[2:-1] + b"tR.",
        "by a persistent id": b"\x80\x02" + system + b"(" + text(touch) + b"tRQ.",
    }  # fmt: skip


def test_the_corpus_is_dangerous(tmp_path):
    """Otherwise the next test would prove nothing: most of the files work on a reader without restrictions."""
    script = """
        import io, json, pickle, sys
        from pathlib import Path
        canary, folder = map(Path, sys.argv[1:])
        worked = 0
        for path in sorted(folder.iterdir()):
            try:
                pickle.loads(path.read_bytes())
            except Exception:
                pass
            worked += canary.exists()
            canary.unlink(missing_ok=True)
        print(worked)
    """
    canary, folder = tmp_path / "canary", tmp_path / "files"
    folder.mkdir()
    payloads = hostile_payloads(canary)
    for i, payload in enumerate(payloads.values()):
        (folder / f"{i:03}").write_bytes(payload)
    assert int(run_child(script, canary, folder)) > 0.8 * len(payloads)


def test_nothing_in_a_hostile_file_runs(tmp_path):
    canary = tmp_path / "canary"
    for name, payload in hostile_payloads(canary).items():
        for ending, wrapped in ((".ckpt", archive(payload)), (".safetensors", payload), (".pt", b"\x80\x02" + payload)):
            path = tmp_path / f"model{ending}"
            path.write_bytes(wrapped)
            with pytest.raises((PickleRefused, BadCheckpoint)):
                read_pickle(path)
            with pytest.raises((PickleRefused, BadCheckpoint)):
                open_safetensors(path)
            assert not canary.exists(), name


def test_pickles_are_read_in_one_module_and_in_the_training_only():
    sources = {path: path.read_text() for path in [*ROOT.glob("backend/**/*.py"), *ROOT.glob("ui/**/*.py")]}
    loading = {path.relative_to(ROOT).as_posix() for path, code in sources.items() if "torch.load(" in code}
    assert loading == {"backend/weights/pickle_child.py", "backend/training/checkpointing.py"}
    forbidden = re.compile(
        r"pickle_module|weights_only=False|[^.]pickle\.(loads?|Unpickler)\b|\bdill\b|\bjoblib\b|torch\.jit\.load"
    )
    assert not {path.name: match[0] for path, code in sources.items() if (match := forbidden.search(code))}
