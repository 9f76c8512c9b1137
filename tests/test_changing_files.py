"""Files that somebody shortens, overwrites or replaces while their weights are in use: never the end of the process."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from backend.errors import BadCheckpoint
from backend.weights.safetensors_file import open_safetensors, write_safetensors

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="leases are Linux's")

NUMBERS = torch.arange(3 * 2**20, dtype=torch.float32)  # twelve MiB


@pytest.fixture
def path(tmp_path) -> Path:
    write_safetensors(tmp_path / "x.safetensors", {"a": NUMBERS, "b": NUMBERS + 1})
    if not leases(tmp_path / "x.safetensors"):
        pytest.skip("no leases are to be had in the folder of temporary files")
    return tmp_path / "x.safetensors"


def leases(path: Path) -> int:
    """How many leases the system counts on a file, after a view of it was taken."""
    source = open_safetensors(path)
    view = source.read("a")
    return held_leases(path) if view.numel() else 0


def held_leases(path: Path) -> int:
    number = f":{path.stat().st_ino} "
    return sum("LEASE" in line and number in line for line in Path("/proc/locks").read_text().splitlines())


BEGINNING = """
    import json, os, signal, subprocess, sys, threading, time, torch
    from pathlib import Path
    from backend.errors import BadCheckpoint
    from backend.weights import guarded_map
    from backend.weights.safetensors_file import open_safetensors, write_safetensors

    torch.set_num_threads(1)
    NUMBERS = torch.arange(3 * 2**20, dtype=torch.float32)

    def refused(source, key):
        try:
            source.read_into(key, torch.empty(3 * 2**20))
        except BadCheckpoint as error:
            return "changed on the disk" in str(error)
        return False

    def anonymous():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024

    def changed(change):
        def run(path, source):
            view, part = source.read("a"), source.read("b")[5:].view(-1)
            began = time.monotonic()
            change(path)
            took = time.monotonic() - began
            return torch.equal(view, NUMBERS), torch.equal(part, NUMBERS[5:] + 1), refused(source, "a"), took < 10
        return run
"""

# Each in turn runs in one process, which has to live to its end, with a file of its own; all that it returns is true.
SCENARIOS = {
    "cut off by a program that does not wait for the lease and tries again": """
        @changed
        def run(path):
            while subprocess.run(["truncate", "-s", "4096", str(path)], stderr=subprocess.DEVNULL).returncode:
                pass
    """,
    "emptied by a shell": """
        @changed
        def run(path):
            subprocess.run(["sh", "-c", f": > {path}"], check=True)
    """,
    "overwritten by cp": """
        @changed
        def run(path):
            subprocess.run(["cp", "/proc/version", str(path)], check=True)
    """,
    "cut off by this process": """
        @changed
        def run(path):
            os.truncate(path, 0)
    """,
    "opened for writing by this process": """
        @changed
        def run(path):
            path.open("wb").close()
    """,
    "cut off by another thread": """
        @changed
        def run(path):
            thread = threading.Thread(target=os.truncate, args=(path, 9))
            thread.start()
            thread.join()
    """,
    "cut off while threads compute with it": """
        def run(path, source):
            sums, view, done = set(), source.read("a"), threading.Event()

            def compute():
                while not done.is_set():
                    sums.add(float(view.sum()))

            threads = [threading.Thread(target=compute) for _ in range(2)]
            for thread in threads:
                thread.start()
            time.sleep(0.05)
            os.truncate(path, 0)
            time.sleep(0.05)
            done.set()
            for thread in threads:
                thread.join()
            return [sums == {float(NUMBERS.sum())}]
    """,
    "written to in place": """
        def run(path, source):
            view = source.read("a")
            with path.open("r+b") as file:
                file.seek(1000)
                file.write(bytes([255]) * 5000)
            return torch.equal(view, NUMBERS), refused(source, "a")
    """,
    "cut off with memory taken for what is looked at alone": """
        def run(path, source):
            view = source.read("a")
            for _ in range(1000):
                source.read("b")
            view.sum()
            before = anonymous()
            os.truncate(path, 0)
            return torch.equal(view, NUMBERS), 11 < anonymous() - before < 16
    """,
    "opened for writing without memory to keep its weights, which become NaN": """
        def run(path, source):
            real, guarded_map._free_bytes = guarded_map._free_bytes, lambda: 0
            view = source.read("a")
            os.close(os.open(path, os.O_RDWR))
            guarded_map._free_bytes = real
            return view.isnan().all().item(), refused(source, "a"), refused(source, "b")
    """,
    "cut off without a signal to the program or a thread that is left": """
        def run(path, source):
            told, before = [], threading.active_count()
            for number in (signal.SIGIO, signal.SIGURG):
                signal.signal(number, lambda *found: told.append(found))
            view = source.read("a")
            during = threading.active_count()
            os.truncate(path, 0)
            kept = torch.equal(view, NUMBERS)
            deadline = time.monotonic() + 5
            while threading.active_count() > before and time.monotonic() < deadline:
                time.sleep(0.01)
            return kept, not told, during == before + 1, threading.active_count() == before
    """,
    "cut off after a child was forked, read and ended": """
        def run(path, source):
            view = source.read("a")
            child = os.fork()
            if not child:
                os._exit(0 if float(source.read("b")[0]) == 1 else 1)
            status = os.waitpid(child, 0)[1]
            os.truncate(path, 0)
            return status == 0, torch.equal(view, NUMBERS)
    """,
}
END = """
    for name, script in json.loads(sys.argv[2]).items():
        scope = dict(globals())
        exec(script, scope)
        path = Path(sys.argv[1]) / "x.safetensors"
        path.unlink(missing_ok=True)
        write_safetensors(path, {"a": NUMBERS, "b": NUMBERS + 1})
        print(json.dumps([name, [bool(fact) for fact in scope["run"](path, open_safetensors(path))]]), flush=True)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[dict[str, list[bool]], str]:
    """What each scenario returned, and how the process ended that ran them."""
    folder = tmp_path_factory.mktemp("changing")
    scripts = json.dumps({name: textwrap.dedent(script) for name, script in SCENARIOS.items()})
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BEGINNING) + textwrap.dedent(END), str(folder), scripts],
        capture_output=True, text=True, timeout=100, check=False, cwd=ROOT,
    )  # fmt: skip
    return dict(json.loads(line) for line in done.stdout.splitlines()), f"ended with {done.returncode}: {done.stderr}"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_weights_in_use_outlive_a_file_that_is(scenario, path, results):
    returned, end = results
    assert scenario in returned, end
    assert all(returned[scenario]), returned[scenario]


def test_a_file_that_was_only_opened_for_writing_can_be_read_on(path):
    source = open_safetensors(path)
    view = source.read("a")
    os.close(os.open(path, os.O_RDWR))
    assert torch.equal(view, NUMBERS)
    assert torch.equal(source.read("b"), NUMBERS + 1)
    assert held_leases(path) == 0
    assert source.read("b").data_ptr() != source.read("b").data_ptr(), "read into memory"


def test_a_file_that_somebody_writes_to_is_read_into_memory(path):
    with path.open("r+b"):
        source = open_safetensors(path)
        views = [source.read("a"), source.read("a")]
        assert held_leases(path) == 0
        assert torch.equal(views[0], NUMBERS)
        assert views[0].data_ptr() != views[1].data_ptr()
    os.truncate(path, 100)
    assert torch.equal(views[0], NUMBERS)


def test_reading_hashing_linking_and_replacing_a_file_go_on_as_ever(path, tmp_path):
    source = open_safetensors(path)
    view = source.read("a")
    began = time.monotonic()
    assert len(path.read_bytes()) == path.stat().st_size
    os.link(path, tmp_path / "other")
    write_safetensors(path, {"a": NUMBERS})
    assert time.monotonic() - began < 5
    assert held_leases(tmp_path / "other") == 1, "views show the old file, which is guarded"
    assert torch.equal(view, NUMBERS)
    with pytest.raises(BadCheckpoint, match="changed on the disk"):
        source.read("a")


def test_a_lease_is_given_back_when_neither_source_nor_view_is_left(path):
    source = open_safetensors(path)
    assert held_leases(path) == 0, "a header needs none"
    view = source.read("a")
    part = view[3:]
    assert held_leases(path) == 1
    del source, view
    assert held_leases(path) == 1, "a view is left"
    del part
    assert held_leases(path) == 0
    began = time.monotonic()
    os.truncate(path, 0)
    assert time.monotonic() - began < 1
