"""Where the bytes of layers come from: out of a file, through the host's memory, to where they are computed with."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Protocol

import torch
from torch import Tensor

from backend.memory.host_cache import HostCache
from backend.memory.leaves import Leaf
from backend.memory.transport import Mark, Transport
from backend.weights.source import WeightSource


class Supply(Protocol):
    """Brings the bytes of layers of one network to where it computes."""

    def empty(self, num_bytes: int) -> Tensor:
        """Memory for `fetch`."""
        ...

    def fetch(self, leaf: Leaf, out: Tensor, after: Mark, *, returns: bool) -> Future[Mark]:
        """Begin to fill `out` with the bytes of a layer, not before `after`.

        returns: whether they will be wanted again, and so should be kept nearby.
        """
        ...

    def now(self) -> Mark: ...

    def wait(self, mark: Mark) -> None:
        """Compute nothing before `mark`."""
        ...


class HostSupply:
    """For networks that compute in the host's own memory: the file is read straight into place."""

    def __init__(self, source: WeightSource, readers: Executor) -> None:
        self._source = source
        self._readers = readers

    def empty(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def fetch(self, leaf: Leaf, out: Tensor, after: Mark, *, returns: bool) -> Future[Mark]:
        return self._readers.submit(read_leaf, leaf, self._source, out)

    def now(self) -> Mark:
        return None

    def wait(self, mark: Mark) -> None:
        """The bytes are there when they have been read."""


class DeviceSupply:
    """For networks on a device: what is not in the host's cache is read into it, or through a few buffers."""

    def __init__(
        self,
        key: str,
        source: WeightSource,
        transport: Transport,
        cache: HostCache,
        readers: Executor,
        buffers: Buffers,
    ) -> None:
        self._key = key
        self._source = source
        self._transport = transport
        self._cache = cache
        self._readers = readers
        self._buffers = buffers

    def empty(self, num_bytes: int) -> Tensor:
        return self._transport.empty(num_bytes)

    def fetch(self, leaf: Leaf, out: Tensor, after: Mark, *, returns: bool) -> Future[Mark]:
        cached = self._cache.find(self._key, leaf.name)
        if cached is not None:
            done: Future[Mark] = Future()
            done.set_result(self._transport.copy(cached, out, after))
            return done
        return self._readers.submit(self._read, leaf, out, after, returns)

    def now(self) -> Mark:
        return self._transport.now()

    def wait(self, mark: Mark) -> None:
        self._transport.wait(mark)

    def _read(self, leaf: Leaf, out: Tensor, after: Mark, returns: bool) -> Mark:
        equal = self._cache.find_equal(self._key, leaf)
        room = self._cache.take(self._key, leaf.num_bytes) if returns else None
        if room is not None:
            self._fill(leaf, room, equal)
            self._cache.put(self._key, leaf, room)
            return self._transport.copy(room, out, after)
        buffer = self._buffers.borrow(leaf.num_bytes)
        try:
            self._fill(leaf, buffer, equal)
            mark = self._transport.copy(buffer[: leaf.num_bytes], out, after)
            self._transport.finish(mark)  # the buffer is wanted for the next layer
        finally:
            self._buffers.give_back(buffer)
        return mark

    @torch.inference_mode(False)
    def _fill(self, leaf: Leaf, out: Tensor, equal: Tensor | None) -> None:
        """Fill the first bytes of `out` with a layer's weights: out of the file, or with those of an equal one."""
        if equal is None:
            read_leaf(leaf, self._source, out)
        else:
            out[: leaf.num_bytes].copy_(equal[: leaf.num_bytes])


class Buffers:
    """A few buffers on the host, each as large as the largest layer that went through it; for several threads."""

    def __init__(self, empty: Callable[[int], Tensor], count: int) -> None:
        self._empty = empty
        self._idle: queue.LifoQueue[Tensor | None] = queue.LifoQueue()
        self._count = count
        for _ in range(count):
            self._idle.put(None)

    def borrow(self, num_bytes: int) -> Tensor:
        buffer = self._idle.get()
        if buffer is not None and buffer.numel() >= num_bytes:
            return buffer
        del buffer  # before a larger one is taken
        try:
            return self._empty(num_bytes)
        except BaseException:
            self._idle.put(None)
            raise

    def give_back(self, buffer: Tensor) -> None:
        self._idle.put(buffer)

    def drop(self) -> None:
        """Let go of those that nobody uses."""
        idle = 0
        while not self._idle.empty():
            try:
                self._idle.get_nowait()
            except queue.Empty:
                break
            idle += 1
        for _ in range(idle):
            self._idle.put(None)


@torch.inference_mode(False)  # threads write to what ordinary tensors are made of
def read_leaf(leaf: Leaf, source: WeightSource, out: Tensor) -> Mark:
    """Fill the first bytes of `out` with a layer's weights, as they are to be held. Raises BadCheckpoint."""
    weights = leaf.within(out)
    for tensor in leaf.tensors:
        tensor.layout.read_into(source, tensor.key, weights[tensor.attribute])
    return None
