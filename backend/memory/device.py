"""Facts about the machine that a model runs on."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """Where networks run.

    kind: "cpu", "cuda" (NVIDIA and ROCm), "mps" or "xpu"; name: for people.
    total_bytes: memory of the device; on a CPU that of the machine, or of the container if that is less.
    has_bfloat16: whether bfloat16 arithmetic is at least as fast as float32 there.
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


def detect_device(*, force_cpu: bool = False) -> DeviceFacts:
    """The best device of this machine, or its CPU."""
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
    return DeviceFacts(
        kind="cpu",
        name=_processor_name(),
        total_bytes=total_host_bytes(),
        has_bfloat16=_cpu_has_bfloat16(),
        has_float16=False,
    )


def total_host_bytes() -> int:
    """Memory of the machine, or the limit of the container that we run in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _number_in(Path("/sys/fs/cgroup/memory.max"))
    return min(total, limit) if limit else total


def free_host_bytes() -> int:
    """Memory that the machine can give without swapping; the pages of mapped files count as free."""
    available = _available_in(Path("/proc/meminfo"))
    if available is None:
        available = total_host_bytes() // 2
    limit, used = (_number_in(Path(f"/sys/fs/cgroup/memory.{what}")) for what in ("max", "current"))
    return min(available, limit - used) if limit and used is not None else available


def _unified(kind: str, name: str, *, has_bfloat16: bool) -> DeviceFacts:
    return DeviceFacts(
        kind=kind, name=name, total_bytes=total_host_bytes(), has_bfloat16=has_bfloat16, has_float16=True
    )


def _cpu_has_bfloat16() -> bool:
    """Whether oneDNN has bfloat16 instructions here; without them bfloat16 is emulated and slow."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    probes: list[Callable[[], bool]] = [probe for name in names if (probe := getattr(torch.cpu, name, None))]
    return any(probe() for probe in probes)


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


def _available_in(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
