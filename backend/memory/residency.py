"""Who holds which weights in memory: networks under a byte budget, of which the least recently used make room."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn

from backend.errors import OutOfMemory
from backend.memory.byte_sizes import as_text
from backend.memory.held_network import HeldNetwork
from backend.memory.host_cache import HostCache
from backend.memory.out_of_memory import is_out_of_memory
from backend.memory.part import Part
from backend.memory.placement import SMALL, LeafSize, Placement, place
from backend.memory.supply import Buffers, DeviceSupply, HostSupply, Supply
from backend.memory.transport import PlainTransport, Transport
from backend.weights.single_threads import single_threaded_pool

__all__ = ["Held", "Part", "Residency"]

_log = logging.getLogger(__name__)

# Threads that read files and convert what they read; a disk is read faster with several requests under way.
_READERS = max(2, min(8, os.cpu_count() or 2))
_KEPT_BY_SHRINKING = 0.75
_KEPT_SIZES = 32  # lists of layers, some hundred kilobytes each


@dataclass(frozen=True, kw_only=True)
class Held:
    """Where the weights of a network are: for the user. Bytes.

    device_bytes: where it computes, what comes and goes included. host_bytes: in the host's memory beside that, ready
    to be copied. streamed_bytes: weights that come and go. total_bytes: all of its weights.
    """

    label: str
    device_bytes: int
    host_bytes: int
    streamed_bytes: int
    total_bytes: int


class Residency:
    """Networks with their weights, never more than `budget` bytes of them at a time where they compute.

    A network that does not fit is used all the same: its layers come and go (backend/memory/streamer.py).
    budget: for weights and for what networks compute with (`working_bytes`). reread: the budget of the next job, given
    the bytes that are held; None for one that stays.
    transport: to the device; None where everything computes on the host. host_budget: bytes of layers on the host that
    are ready to be copied there. small: layers of fewer bytes than that always stay.
    """

    def __init__(
        self,
        budget: int,
        *,
        reread: Callable[[int], int] | None = None,
        transport: Transport | None = None,
        host_budget: int = 0,
        small: int = SMALL,
        readers: Executor | None = None,
    ) -> None:
        self.budget = budget
        self._full_budget = budget
        self._reread = reread
        self._transport = transport
        staging = (transport or PlainTransport(torch.device("cpu"))).staging
        self._cache = HostCache(host_budget, staging)
        self._buffers = Buffers(staging, _READERS)
        self._small = small
        self._readers = readers or single_threaded_pool(_READERS, "weights")
        self._held: OrderedDict[str, HeldNetwork] = OrderedDict()
        self._sizes: OrderedDict[str, list[LeafSize]] = OrderedDict()
        self._working_bytes = 0
        self._built: HeldNetwork | None = None  # for its sizes, and perhaps to be used next
        self._of_job: set[str] = set()  # keys of what this job has used
        self._lock = threading.Lock()  # of the table: held for a moment
        self._changing = threading.RLock()  # of what is in memory: held for seconds, while `report` goes on answering

    def get(self, part: Part, working_bytes: int = 0) -> nn.Module:
        """The network of `part`, ready to be called; others make room as far as that is needed.

        working_bytes: what it needs at the most for its activations, which is kept free.
        Raises KeysDoNotMatch, BadCheckpoint, and OutOfMemory when there is not even room for its largest layer.
        """
        with self._changing:
            network = self._find(part) or self._new(part)
            placement = place(
                network.sizes(),
                self.budget - working_bytes,
                keeps_once=network.is_on_host,
                title=part.title,
            )
            self._working_bytes = working_bytes
            self._of_job.add(part.key)
            is_new = placement != network.placement
            self._share(network, placement)
            self._make_room(placement.num_bytes, keeping=network)
            self._arrange(network, placement)
            with self._lock:
                self._held[part.key] = network
                self._held.move_to_end(part.key)
            if is_new:
                self._tell(network, placement)
            return network.module

    def sizes(self, part: Part) -> list[LeafSize]:
        """The layers of a part and their bytes, from the header of its file. Raises KeysDoNotMatch."""
        with self._changing:
            if part.key not in self._sizes:
                network = self._find(part)
                if network is None:
                    network = self._built = self._new(part)
                self._sizes[part.key] = network.sizes()
            self._sizes.move_to_end(part.key)
            while len(self._sizes) > _KEPT_SIZES:
                self._sizes.popitem(last=False)
            return self._sizes[part.key]

    def retire(self, part: Part) -> None:
        """Have a network make room before all others, because another takes its place, until it is asked for again."""
        with self._lock:
            if part.key in self._held:
                self._held.move_to_end(part.key, last=False)

    def begin_job(self) -> None:
        """Look again at what may be used, because other programs come and go and `shrink` is for one job."""
        with self._changing:
            self.budget = self._full_budget if self._reread is None else self._reread(self.used())
            self._working_bytes = 0
            self._built = None
            self._of_job.clear()
            self._make_room(0, keeping=None)

    def shrink(self) -> None:
        """After memory ran out: give up all that is not needed, and use a quarter less until the next job.

        Networks in use stay usable. Raises OutOfMemory when one of them no longer fits.
        """
        with self._changing:
            self.budget = int(self.budget * _KEPT_BY_SHRINKING)
            _log.warning("Memory ran out; the budget is %s until the next job", as_text(self.budget))
            self._cache.drop()
            self._buffers.drop()
            newest = next(reversed(self._held.values()), None)
            while self._evict(newest, sys.maxsize):
                pass
            if newest is not None:
                newest.shed(newest.device_bytes)  # so that nothing is held twice while it is arranged anew
                self._give_back()
                self.get(newest.part, self._working_bytes)
            else:
                self._give_back()

    @property
    def host_budget(self) -> int:
        """Bytes of layers on the host that may be kept ready to be copied to a device."""
        return self._cache.budget

    def used(self) -> int:
        """Bytes of weights where networks compute."""
        with self._lock:
            return sum(network.device_bytes for network in self._held.values())

    def report(self) -> tuple[Held, ...]:
        """What is held, the least recently used first."""
        with self._lock:
            return tuple(self._described(network) for network in self._held.values())

    def drop_all(self) -> None:
        """Let go of everything; networks in use live until their users let go, too."""
        with self._lock:
            leaving = list(self._held.values())
            self._held.clear()
            self._built = None
        while leaving:
            leaving.pop().forget_pages()
        self._cache.drop()
        self._buffers.drop()
        self._give_back()

    def _find(self, part: Part) -> HeldNetwork | None:
        with self._lock:
            return self._held.get(part.key)

    def _new(self, part: Part) -> HeldNetwork:
        built, self._built = self._built, None
        if built is not None and built.part.key == part.key:
            return built
        return HeldNetwork(part, self._supply(part), self._readers, self._small, self._admit)

    def _share(self, network: HeldNetwork, placement: Placement) -> None:
        """Layers that another network of this kind holds with the same weights change over from it, as where models
        are made of others and only some of their weights differ. Nothing is held twice, and nothing is read.

        What it then has left of an earlier job is only the weights that differ, as of another strength of an adapter:
        their memory is used for the new ones."""
        with self._lock:
            others = [
                other
                for other in reversed(self._held.values())
                if other is not network
                and other.part.label == network.part.label
                and other.part.target == network.part.target
            ]
        for other in others:
            taken = network.take_over(other, placement.resident)
            if taken:
                _log.info("%s takes over %s from %s", network.part.title, as_text(taken), other.part.title)
                if other.part.key not in self._of_job:
                    network.reuse(other)
            if not other.device_bytes:
                with self._lock:
                    del self._held[other.part.key]

    def _supply(self, part: Part) -> Supply:
        if self._transport is None or part.target.device.type == "cpu":
            return HostSupply(part.source, self._readers)
        return DeviceSupply(part.key, part.source, self._transport, self._cache, self._readers, self._buffers)

    def _arrange(self, network: HeldNetwork, placement: Placement) -> None:
        """Load, if need be once more after everything else has left the memory."""
        try:
            network.arrange(placement)
            return
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            _log.warning("No memory for %s; everything else makes room", network.part.title)
        self._drop_others(network)  # outside of the handler: the traceback holds what was allocated so far
        try:
            network.arrange(placement)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"The machine has no memory for {network.part.title}, which needs {as_text(placement.num_bytes)}. "
                "Close other programs, or choose a smaller model."
            ) from error

    def _drop_others(self, network: HeldNetwork) -> None:
        self._cache.drop()
        self._buffers.drop()
        while self._evict(network, sys.maxsize):
            pass
        self._give_back()

    def _admit(self, network: HeldNetwork, num_bytes: int) -> None:
        """A network, which may have been evicted while it was in use, takes memory for layers that come and go."""
        with self._changing:
            self._make_room(network.device_bytes + num_bytes, keeping=network)
            with self._lock:
                self._held[network.part.key] = network

    def _make_room(self, num_bytes: int, *, keeping: HeldNetwork | None) -> None:
        """So that `keeping` may take `num_bytes` in all."""
        evicted = False
        while (excess := self._used_without(keeping) + num_bytes + self._working_bytes - self.budget) > 0:
            if not self._evict(keeping, excess):
                break
            evicted = True
        if evicted:
            self._give_back()

    def _used_without(self, network: HeldNetwork | None) -> int:
        with self._lock:
            return sum(other.device_bytes for other in self._held.values() if other is not network)

    def _evict(self, keeping: HeldNetwork | None, num_bytes: int) -> bool:
        """Take at least so much from the network that was used least recently, if it has so much."""
        with self._lock:
            oldest = next((network for network in self._held.values() if network is not keeping), None)
            if oldest is None:
                return False
        oldest.shed(num_bytes)
        if not oldest.device_bytes:
            with self._lock:
                del self._held[oldest.part.key]
            _log.info("%s left the memory", oldest.part.title)
        else:
            _log.info("%s makes room and keeps %s", oldest.part.title, as_text(oldest.device_bytes))
        return True

    def _described(self, network: HeldNetwork) -> Held:
        tables = network.table_bytes
        return Held(
            label=network.part.title,
            device_bytes=network.device_bytes,
            host_bytes=self._cache.num_bytes(network.part.key) + tables,
            streamed_bytes=network.streamed_bytes,
            total_bytes=network.resident_bytes + network.streamed_bytes + tables,
        )

    def _tell(self, network: HeldNetwork, placement: Placement) -> None:
        total = network.resident_bytes + network.streamed_bytes
        _log.info(
            "%s: %s of %s resident, %s streamed through %s; %s of %s used",
            network.part.title,
            as_text(network.resident_bytes),
            as_text(total),
            as_text(network.streamed_bytes),
            as_text(placement.ring_bytes + placement.once_ring_bytes),
            as_text(self.used()),
            as_text(self.budget),
        )

    def _give_back(self) -> None:
        """Return freed memory to the system: PyTorch and the C library keep that of large models otherwise."""
        gc.collect()
        if self._transport is not None:
            self._transport.give_back()
        if sys.platform == "linux":
            with suppress(AttributeError):  # not every C library has it
                ctypes.CDLL(None).malloc_trim(0)
