"""What is computed in which type, and how much memory is taken: from the facts about a machine."""

import itertools
import sys

import pytest
import torch

from backend.errors import RequestError
from backend.memory import budget as budget_module
from backend.memory import device as device_module
from backend.memory.arithmetic import speedup
from backend.memory.budget import ProgramCap, default_budget, residency_for
from backend.memory.byte_sizes import as_text, parse_bytes
from backend.memory.device import DeviceFacts, detect_device, free_host_bytes, total_host_bytes
from backend.memory.dtype_policy import DtypePolicy, policy_for
from backend.memory.peak_watch import PeakWatch
from backend.memory.pinning import pinning_pays
from backend.memory.process_memory import resident_bytes

GIB = 2**30


def machine(kind: str, *, bfloat16: bool = False, float16: bool = False) -> DeviceFacts:
    return DeviceFacts(kind=kind, name="test", total_bytes=8 * GIB, has_bfloat16=bfloat16, has_float16=float16)


def types(policy: DtypePolicy) -> set[torch.dtype]:
    return {policy.unet, policy.text_encoder, policy.autoencoder}


@pytest.mark.parametrize(("bfloat16", "float16", "full"), list(itertools.product([True, False], repeat=3)))
def test_a_cpu_never_computes_in_float16_whatever_it_claims(bfloat16, float16, full):
    policy = policy_for(machine("cpu", bfloat16=bfloat16, float16=float16), full_precision=full)
    assert types(policy) == {torch.bfloat16 if bfloat16 and not full else torch.float32}


@pytest.mark.parametrize(
    ("kind", "bfloat16", "float16"), list(itertools.product(["cuda", "mps", "xpu"], [True, False], [True, False]))
)
def test_an_autoencoder_never_computes_in_float16_where_it_overflows(kind, bfloat16, float16):
    policy = policy_for(machine(kind, bfloat16=bfloat16, float16=float16))
    assert policy.autoencoder == (torch.bfloat16 if bfloat16 else torch.float32)
    assert policy.unet == (torch.float16 if float16 else policy.autoencoder)
    assert types(policy_for(machine(kind, bfloat16=bfloat16, float16=float16), full_precision=True)) == {torch.float32}


def test_this_machine_is_detected():
    facts = detect_device(force_cpu=True)
    assert facts.kind == "cpu"
    assert facts.is_host
    assert facts.torch_device == torch.device("cpu")
    assert not facts.has_float16
    assert facts.name
    assert 0 < facts.free_bytes() <= facts.total_bytes
    assert detect_device().kind in ("cpu", "cuda", "mps", "xpu")


@pytest.mark.parametrize(
    ("found", "measured", "has"),
    [
        ({}, 4.0, False),
        ({"avx512_f": True}, 4.0, False),
        ({"avx512_bf16": True}, 4.0, True),
        ({"avx512_bf16": True}, 0.5, False),
        ({"amx_bf16": True}, 8.0, True),
        ({"amx_bf16": False}, 8.0, False),
    ],
)
def test_bfloat16_is_used_where_the_processor_has_instructions_that_are_fast(monkeypatch, found, measured, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    monkeypatch.setattr("backend.memory.device.speedup", lambda dtype, *, over: measured)
    assert detect_device(force_cpu=True).has_bfloat16 is has


def test_the_faster_of_two_types_is_found_by_measuring():
    assert speedup(torch.float64, over=torch.float32) < 1 < speedup(torch.float32, over=torch.float64)


# Containers


@pytest.fixture
def container(tmp_path, monkeypatch):
    """A function that writes the files in which a container sees its limits."""
    monkeypatch.setattr(device_module, "_CGROUP", tmp_path)

    def container(**files: object) -> None:
        for name, content in files.items():
            (tmp_path / f"memory.{name}").write_text(f"{content}\n")

    return container


def test_the_limit_of_a_container_is_its_memory(container):
    container(max=GIB)
    assert total_host_bytes() == GIB
    assert free_host_bytes() <= GIB


def test_pages_of_files_count_as_free_in_a_container(container):
    container(max=GIB, current=900 * 2**20, stat=f"anon 1\ninactive_file {500 * 2**20}\nactive_file {300 * 2**20}\n")
    assert free_host_bytes() == GIB - 100 * 2**20


def test_a_container_that_is_full_has_nothing_free(container):
    container(max=GIB, current=GIB + 4096, stat="inactive_file 0\nactive_file 0\n")
    assert free_host_bytes() == 0


@pytest.mark.parametrize("limit", ["max", "", "-1", 2**62])
def test_without_a_limit_the_machine_counts(container, limit):
    without = total_host_bytes()
    container(max=limit, current=0)
    assert total_host_bytes() == without
    assert free_host_bytes() > 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems are not asked by these files")
def test_a_machine_that_does_not_tell_what_is_free_is_taken_to_have_half(monkeypatch, container):
    monkeypatch.setattr(device_module, "_number_behind", lambda *_: None)
    assert free_host_bytes() == total_host_bytes() // 2


# Budgets


def test_the_budget_leaves_room_for_everything_else(monkeypatch):
    facts = machine("cpu")
    monkeypatch.setattr(DeviceFacts, "free_bytes", lambda _self: 6 * GIB)
    assert default_budget(facts) == 3 * GIB
    assert default_budget(facts, low_memory=True) == GIB
    assert default_budget(machine("cuda")) == 6 * GIB - 400 * 2**20
    monkeypatch.setattr(DeviceFacts, "free_bytes", lambda _self: 500 * 2**20)
    assert default_budget(machine("cuda")) == 250 * 2**20


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("3G", 3 * GIB),
        ("512 MiB", 512 * 2**20),
        ("1.5gb", 3 * GIB // 2),
        (" 800m ", 800 * 2**20),
        ("2T", 2**41),
        ("4096", 4096),
    ],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "0.0G", "1e9", "3 G B", "nan", "inf", "9" * 20, "3G3G", "0x10"])
def test_what_is_no_size_is_told(text):
    with pytest.raises(RequestError, match="memory_budget"):
        parse_bytes(text)


def test_sizes_are_told_as_people_read_them():
    assert [as_text(size) for size in (0, 800 * 2**20, GIB, 1.7 * GIB)] == ["0 MiB", "800 MiB", "1.0 GiB", "1.7 GiB"]


# The budget of a machine


def test_a_budget_counts_what_is_held_as_free(monkeypatch):
    monkeypatch.setattr(DeviceFacts, "free_bytes", lambda _self: 2 * GIB)
    assert default_budget(machine("cuda"), held=4 * GIB) == 6 * GIB - 400 * 2**20
    assert default_budget(machine("cpu"), held=4 * GIB) == 3 * GIB


def test_a_cap_is_for_the_whole_program(monkeypatch):
    program = iter([500 * 2**20, 700 * 2**20, 9 * GIB])
    monkeypatch.setattr(budget_module, "resident_bytes", lambda: next(program))
    cap = ProgramCap(3 * GIB)
    budget = cap.budget(0)
    assert 2 * GIB < budget + 700 * 2**20 < 3 * GIB - 200 * 2**20
    assert cap.budget(2 * GIB) == budget
    assert cap.budget(0) == 256 * 2**20


def test_the_residency_of_a_machine_reads_its_budget_again_for_each_job(monkeypatch):
    free = iter([6 * GIB, 4 * GIB])
    monkeypatch.setattr(DeviceFacts, "free_bytes", lambda _self: next(free))
    residency = residency_for(machine("cpu"))
    assert residency.budget == 3 * GIB
    residency.begin_job()
    assert residency.budget == 2 * GIB
    held = resident_bytes()  # the cap is on all that the program holds, which in a long run of tests is a lot
    capped = residency_for(machine("cpu"), cap=held + 3 * GIB)
    assert 2 * GIB < capped.budget < 3 * GIB


def test_copies_from_page_locked_memory_are_never_tried_without_a_gpu():
    assert not pinning_pays(torch.device("cpu"))
    assert not pinning_pays(torch.device("mps"))


# Peaks


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_the_peak_of_each_stage_of_a_job_is_known():
    watch = PeakWatch(machine("cpu"))
    before = resident_bytes()
    watch.begin("one")
    torch.ones(2**26).sum()  # 256 MiB, given back at once
    watch.begin("two")
    watch.begin("three")
    held = torch.ones(2**24)
    watch.begin("one")
    watch.end()
    peaks = {peak.stage: peak for peak in watch.peaks()}
    assert list(peaks) == ["one", "two", "three"]
    assert peaks["one"].host_bytes > before + 240 * 2**20
    assert peaks["two"].host_bytes < peaks["one"].host_bytes - 200 * 2**20
    assert peaks["three"].host_bytes > peaks["two"].host_bytes + held.nbytes // 2
    assert peaks["one"].device_bytes is None
    watch.clear()
    assert watch.peaks() == ()
