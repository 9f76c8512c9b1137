"""Layers in the host's memory, ready to be copied to a device."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

from backend.memory.leaves import Leaf

# Page-locked memory is handed out in powers of two, so that it is taken in pieces of one and cut up.
_SLAB_BYTES = 128 * 2**20


class _Shelf:
    """What is kept of one network."""

    def __init__(self) -> None:
        self.layers: dict[str, Tensor] = {}
        self.leaves: dict[str, Leaf] = {}
        self.num_bytes = 0
        self.rest: Tensor | None = None  # of the newest slab


class HostCache:
    """At most `budget` bytes; networks that were used least recently make room."""

    def __init__(self, budget: int, empty: Callable[[int], Tensor]) -> None:
        self.budget = budget
        self._empty = empty
        self._shelves: OrderedDict[str, _Shelf] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, network: str, layer: str) -> Tensor | None:
        """The bytes of a layer of a network, by their keys."""
        with self._lock:
            if network not in self._shelves:
                return None
            self._shelves.move_to_end(network)
            return self._shelves[network].layers.get(layer)

    def find_equal(self, network: str, leaf: Leaf) -> Tensor | None:
        """The bytes of the layer in another network, where its weights are the same."""
        with self._lock:
            for key, shelf in self._shelves.items():
                other = shelf.leaves.get(leaf.name)
                if key != network and other is not None and other.identity == leaf.identity:
                    return shelf.layers[leaf.name]
        return None

    def take(self, network: str, num_bytes: int) -> Tensor | None:
        """Memory for a layer, to be filled and then `put`; None when the network alone would outgrow the budget."""
        with self._lock:
            shelf = self._shelves.setdefault(network, _Shelf())
            self._shelves.move_to_end(network)
            if shelf.rest is None or shelf.rest.numel() < num_bytes:
                slab = max(num_bytes, min(_SLAB_BYTES, self.budget // 8))
                if not self._make_room(slab, network):
                    return None
                shelf.rest = self._empty(slab)
                shelf.num_bytes += slab
            taken, shelf.rest = shelf.rest[:num_bytes], shelf.rest[num_bytes:]
            return taken

    def put(self, network: str, leaf: Leaf, filled: Tensor) -> None:
        with self._lock:
            if network in self._shelves:
                self._shelves[network].layers[leaf.name] = filled
                self._shelves[network].leaves[leaf.name] = leaf

    def num_bytes(self, network: str | None = None) -> int:
        """Of one network, or of all."""
        with self._lock:
            return sum(shelf.num_bytes for key, shelf in self._shelves.items() if network in (None, key))

    def drop(self, network: str | None = None) -> None:
        with self._lock:
            for key in [key for key in self._shelves if network in (None, key)]:
                del self._shelves[key]

    def _make_room(self, num_bytes: int, network: str) -> bool:
        if self._shelves[network].num_bytes + num_bytes > self.budget:
            return False
        while sum(shelf.num_bytes for shelf in self._shelves.values()) + num_bytes > self.budget:
            del self._shelves[next(key for key in self._shelves if key != network)]
        return True
