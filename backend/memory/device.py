"""Facts about the machine that a model runs on."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from backend.memory.arithmetic import speedup

_WORTHWHILE = 1.25  # times as fast as float32: bfloat16 rounds, so it has to pay, and no machine should be undecided
_CGROUP = Path("/sys/fs/cgroup")  # where a container sees its own limits


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """Where networks run.

    kind: "cpu", "cuda" (NVIDIA and ROCm), "mps" or "xpu"; name: for people.
    total_bytes: memory of the device; on a CPU that of the machine, or of the container if that is less.
    has_bfloat16: whether bfloat16 arithmetic is faster than float32 there.
    has_float16: whether float16 arithmetic is; never on a CPU, where it is up to a hundred times slower.
    """

    kind: str
    name: str
    total_bytes: int
    has_bfloat16: bool
    has_float16: bool

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.kind)

    @property
    def is_host(self) -> bool:
        """Whether the device computes in the machine's own memory."""
        return self.kind == "cpu"

    def free_bytes(self) -> int:
        """Memory that could be taken right now."""
        if self.kind == "cuda":
            return torch.cuda.mem_get_info()[0]
        return free_host_bytes()


def detect_device(*, force_cpu: bool = False, measured: DeviceFacts | None = None) -> DeviceFacts:
    """The best device of this machine, or its CPU.

    measured: what was found before. What of it was measured holds for the same processor: a measurement that came out
    differently at the next start would change the arithmetic, and with it the pictures.
    """
    if not force_cpu and torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        return DeviceFacts(
            kind="cuda",
            name=facts.name,
            total_bytes=facts.total_memory,
            has_bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
            has_float16=True,
        )
    if not force_cpu and torch.backends.mps.is_available():
        return _unified("mps", "Apple GPU", has_bfloat16=False)
    if not force_cpu and torch.xpu.is_available():
        return _unified("xpu", "Intel GPU", has_bfloat16=True)
    name = _processor_name()
    is_known = measured is not None and (measured.kind, measured.name) == ("cpu", name)
    return DeviceFacts(
        kind="cpu",
        name=name,
        total_bytes=total_host_bytes(),
        has_bfloat16=measured.has_bfloat16 if measured and is_known else _cpu_has_bfloat16(),
        has_float16=False,
    )


def total_host_bytes() -> int:
    """Memory of the machine, or the limit of the container that we run in."""
    limit = _container_limit()
    return min(_installed_bytes(), limit) if limit else _installed_bytes()


def free_host_bytes() -> int:
    """Memory that can be taken without swapping. Pages of files count as free: the system gives them up at once."""
    available = _number_behind(Path("/proc/meminfo"), "MemAvailable:")
    free = available * 1024 if available is not None else _installed_bytes() // 2
    limit, used = _container_limit(), _container_use()
    return max(0, min(free, limit - used)) if limit else free


def _installed_bytes() -> int:
    if sys.platform == "win32":
        kilobytes = ctypes.c_ulonglong()
        ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))
        return kilobytes.value * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _container_limit() -> int | None:
    return _number_in(_CGROUP / "memory.max")


def _container_use() -> int:
    """What cannot be given up: without the pages of files that the container's processes have read."""
    used = _number_in(_CGROUP / "memory.current") or 0
    pages = (_number_behind(_CGROUP / "memory.stat", name) or 0 for name in ("inactive_file", "active_file"))
    return max(0, used - sum(pages))


def _unified(kind: str, name: str, *, has_bfloat16: bool) -> DeviceFacts:
    return DeviceFacts(
        kind=kind, name=name, total_bytes=total_host_bytes(), has_bfloat16=has_bfloat16, has_float16=True
    )


def _cpu_has_bfloat16() -> bool:
    """Whether bfloat16 is fast here. Without instructions it is emulated, and with them it is not always fast either:
    Intel's processors without AMX compute twice as fast in float32."""
    capabilities = torch.cpu.get_capabilities()
    has_instructions = any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))
    return has_instructions and speedup(torch.bfloat16, over=torch.float32) > _WORTHWHILE


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _number_in(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _number_behind(file: Path, name: str) -> int | None:
    """The number behind `name` in one of the kernel's files with a name and a number on each line."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return None
    return next((int(words[1]) for words in lines if words[:1] == [name] and words[1].isdigit()), None)
