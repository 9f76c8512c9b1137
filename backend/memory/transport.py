"""How bytes get to a device, beside what it computes."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

Mark = object
"""A moment in the work of a device, as its transport understands it."""


class Transport(Protocol):
    """Memory of a device, and copies to it that run beside its computing. Nothing here makes the program wait but
    `finish`."""

    @property
    def device(self) -> torch.device: ...

    def empty(self, num_bytes: int) -> Tensor:
        """Bytes [num_bytes] on the device. Raises what PyTorch raises when there is no memory."""
        ...

    def staging(self, num_bytes: int) -> Tensor:
        """Bytes on the host from which copies are fast."""
        ...

    def now(self) -> Mark:
        """After everything that the device has been given to compute so far."""
        ...

    def copy(self, source: Tensor, out: Tensor, after: Mark) -> Mark:
        """Copy bytes from the host to the device once `after` has passed; tells when that is done."""
        ...

    def wait(self, mark: Mark) -> None:
        """Let the device compute nothing further until `mark` has passed."""
        ...

    def finish(self, mark: Mark) -> None:
        """Wait, in this thread, until `mark` has passed."""
        ...

    def give_back(self) -> None:
        """Return memory that PyTorch keeps for later to the system."""
        ...


class StreamTransport:
    """CUDA, ROCm and XPU: copies on a stream of their own, put into order by events.

    pins: keep host memory page-locked, without which a copy is not beside anything.
    """

    def __init__(self, device: torch.device, *, pins: bool) -> None:
        self.device = device
        self._pins = pins
        self._copies = torch.Stream(device)

    def empty(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=self.device)

    def staging(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self._pins)

    def now(self) -> Mark:
        return torch.accelerator.current_stream(self.device).record_event()

    def copy(self, source: Tensor, out: Tensor, after: Mark) -> Mark:
        assert isinstance(after, torch.Event)
        self._copies.wait_event(after)
        with self._copies:
            out.copy_(source, non_blocking=True)
        return self._copies.record_event()

    def wait(self, mark: Mark) -> None:
        assert isinstance(mark, torch.Event)
        torch.accelerator.current_stream(self.device).wait_event(mark)

    def finish(self, mark: Mark) -> None:
        assert isinstance(mark, torch.Event)
        mark.synchronize()

    def give_back(self) -> None:
        torch.accelerator.empty_cache()


class PlainTransport:
    """Apple's GPUs, and whatever else has one queue: copies take their turn with the computing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def empty(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=self.device)

    def staging(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def now(self) -> Mark:
        return None

    def copy(self, source: Tensor, out: Tensor, after: Mark) -> Mark:
        out.copy_(source)
        return None

    def wait(self, mark: Mark) -> None:
        """Nothing runs beside."""

    def finish(self, mark: Mark) -> None:
        """A copy is done when it returns."""

    def give_back(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.empty_cache()


def transport_to(device: torch.device, *, pins: bool) -> Transport:
    return StreamTransport(device, pins=pins) if device.type in ("cuda", "xpu") else PlainTransport(device)
