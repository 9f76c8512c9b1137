"""The most memory that each stage of a job took."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from backend.memory.device import DeviceFacts
from backend.memory.process_memory import peak_bytes, reset_peak


@dataclass(frozen=True, kw_only=True)
class StagePeak:
    """host_bytes: of the program on the machine. device_bytes: on its GPU, or None where it has none."""

    stage: str
    host_bytes: int
    device_bytes: int | None


class PeakWatch:
    """Told which stage begins, it knows the peaks of those that ended. For one job at a time."""

    def __init__(self, device: DeviceFacts) -> None:
        self._device = device
        self._stage: str | None = None
        self._peaks: dict[str, StagePeak] = {}

    def begin(self, stage: str) -> None:
        """End the stage that runs; one that comes again keeps the higher of its peaks."""
        self.end()
        self._stage = stage
        reset_peak()
        if self._device.kind in ("cuda", "xpu"):
            torch.accelerator.reset_peak_memory_stats()

    def end(self) -> None:
        if self._stage is None:
            return
        known = self._peaks.get(self._stage)
        host, device = peak_bytes(), self._device_peak()
        self._peaks[self._stage] = StagePeak(
            stage=self._stage,
            host_bytes=max(host, known.host_bytes if known else 0),
            device_bytes=None if device is None else max(device, (known.device_bytes if known else None) or 0),
        )
        self._stage = None

    def clear(self) -> None:
        """A new job begins."""
        self.end()
        self._peaks.clear()

    def peaks(self) -> tuple[StagePeak, ...]:
        """Of the stages that ended, in the order in which they first began."""
        return tuple(self._peaks.values())

    def _device_peak(self) -> int | None:
        match self._device.kind:
            case "cuda" | "xpu":
                return torch.accelerator.max_memory_allocated()
            case "mps":  # which counts no peaks
                return torch.mps.current_allocated_memory()
            case _:
                return None
