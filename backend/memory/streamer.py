"""Layers that pass through a ring of memory: while one runs, those that follow are on their way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from backend.errors import OutOfMemory
from backend.memory.byte_sizes import as_text
from backend.memory.leaves import Leaf
from backend.memory.ring import Ring
from backend.memory.supply import Supply
from backend.memory.transport import Mark

_NEARBY = 2  # a layer that comes again after at most so many others has not left in between


@dataclass(eq=False)
class _Slot:
    """A layer's place in the ring. turn: the count of layers when it first ran, or None before that."""

    leaf: Leaf
    begin: int
    buffer: Tensor
    ready: Future[Mark]
    users: int = 0
    turn: int | None = None


class Streamer:
    """Gives each of `leaves` its weights for as long as it runs, through `ring_bytes` bytes of memory.

    The order in which layers run is first taken to be that of `leaves`, and then learned; it is a circle, so that the
    end of one pass fetches the beginning of the next. What was not foreseen is right too, and slower.
    admit: makes room for so many bytes. is_ephemeral: every layer runs once and then not for long; the memory is given
    up when all of them have.
    """

    def __init__(
        self,
        leaves: Sequence[Leaf],
        supply: Supply,
        ring_bytes: int,
        admit: Callable[[int], None],
        *,
        is_ephemeral: bool = False,
    ) -> None:
        self.leaves = tuple(leaves)
        self.ring_bytes = ring_bytes
        self._supply = supply
        self._admit = admit
        self._is_ephemeral = is_ephemeral
        self._ring = Ring(ring_bytes)
        self._memory: Tensor | None = None
        self._released: Mark = None  # everything that ran from the ring has ended by then
        self._slots: dict[Leaf, _Slot] = {}
        self._idle: list[_Slot] = []  # ran, but will soon do so again
        self._order: list[Leaf] = []
        self._next = 0  # in the order: what to fetch
        self._turn = 0
        self._last_turns: dict[Leaf, int] = {}
        self._lap: dict[Leaf, None] = {}
        self._repeats: dict[Leaf, int] = {}  # how many others ran before a layer came again
        self._knows_repeats = False
        self._follow(self.leaves)
        self._handles = [handle for leaf in self.leaves for handle in self._hooked(leaf)]

    @property
    def num_bytes(self) -> int:
        """Memory that is taken right now."""
        return 0 if self._memory is None else self.ring_bytes

    def release(self) -> None:
        """Give up the memory; the next layer that runs takes it again."""
        self._empty_ring()
        self._memory = None

    def detach(self) -> None:
        """Never again fetch anything."""
        self.release()
        for handle in self._handles:
            handle.remove()

    def _hooked(self, leaf: Leaf) -> tuple[RemovableHandle, RemovableHandle]:
        def enter(_module: nn.Module, _inputs: object) -> None:
            self._enter(leaf)

        def leave(_module: nn.Module, _inputs: object, _output: object) -> None:
            self._leave(leaf)

        module = leaf.module
        return module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)

    @torch.inference_mode(False)
    def _enter(self, leaf: Leaf) -> None:
        slot = self._slots.get(leaf) or self._fetch_unforeseen(leaf)
        slot.users += 1
        self._count(leaf)
        if slot.turn is None:
            slot.turn = self._turn
        self._free_idle()
        self._fetch_ahead()
        self._supply.wait(slot.ready.result())
        leaf.place(leaf.within(slot.buffer))

    @torch.inference_mode(False)
    def _leave(self, leaf: Leaf) -> None:
        """Also after a layer that failed, perhaps before it had any weights."""
        slot = self._slots.get(leaf)
        if slot is None or not slot.users:
            return
        slot.users -= 1
        if slot.users:
            return
        leaf.remove()
        self._released = self._supply.now()
        if slot not in self._idle:
            self._idle.append(slot)
        self._free_idle()
        if self._is_ephemeral and len(self._last_turns) == len(self.leaves):
            self._last_turns.clear()
            self._lap.clear()
            self.release()
            self._next = 0
            return
        self._fetch_ahead()

    def _count(self, leaf: Leaf) -> None:
        """Learn the order from what runs."""
        last = self._last_turns.get(leaf)
        if last is not None and self._turn - last <= _NEARBY:
            self._repeats[leaf] = max(self._repeats.get(leaf, 0), self._turn - last)
            return
        if leaf in self._lap:
            lap = list(self._lap)
            lap = lap[lap.index(leaf) :]
            self._lap.clear()
            self._knows_repeats = True
            if lap != self._order:
                self._follow(lap)
        self._turn += 1
        self._lap[leaf] = None
        self._last_turns[leaf] = self._turn

    def _follow(self, order: Sequence[Leaf]) -> None:
        self._order = list(order)
        self._places = {leaf: place for place, leaf in enumerate(order)}
        self._next = 0

    def _fetch_unforeseen(self, leaf: Leaf) -> _Slot:
        self._empty_ring()
        if leaf not in self._places:
            self._follow(self.leaves)
        self._next = self._places[leaf]
        if not self._fetch(leaf):
            raise OutOfMemory(
                f"{leaf.name} needs {as_text(leaf.num_bytes)} while other layers are in use, and the memory for layers "
                f"that come and go is {as_text(self.ring_bytes)}. Raise the budget with --memory-budget."
            )
        self._next += 1
        return self._slots[leaf]

    def _fetch_ahead(self) -> None:
        for _ in self._order:
            if self._next == len(self._order):
                if self._is_ephemeral:
                    return
                self._next = 0
            leaf = self._order[self._next]
            slot = self._slots.get(leaf)
            is_coming = slot is not None and slot.turn is None
            if not is_coming and (slot is not None or not self._fetch(leaf)):
                return  # no room yet, or a whole lap is in the ring
            self._next += 1

    def _fetch(self, leaf: Leaf) -> bool:
        if self._memory is None:
            self._admit(self.ring_bytes)
            self._memory = self._supply.empty(self.ring_bytes)
            self._released = self._supply.now()
        begin = self._ring.take(leaf.num_bytes)
        if begin is None:
            return False
        buffer = self._memory[begin : begin + leaf.num_bytes]
        ready = self._supply.fetch(leaf, buffer, self._released, returns=not self._is_ephemeral)
        self._slots[leaf] = _Slot(leaf, begin, buffer, ready)
        return True

    def _free_idle(self) -> None:
        for slot in [slot for slot in self._idle if not slot.users and self._turn - _turn_of(slot) > self._stay(slot)]:
            self._free(slot)

    def _stay(self, slot: _Slot) -> int:
        """How many further layers may begin before this one leaves; none at all if it leaves at once."""
        return self._repeats.get(slot.leaf, -1 if self._knows_repeats else 1)

    def _empty_ring(self) -> None:
        """Leave only what runs at this moment."""
        for slot in [slot for slot in self._slots.values() if not slot.users]:
            self._free(slot)

    def _free(self, slot: _Slot) -> None:
        # Nobody may write, neither now nor later, when the memory has become someone else's. What went wrong is told
        # when the layer is fetched again.
        if not slot.ready.cancel() and slot.ready.exception() is None and slot.turn is None:
            self._supply.wait(slot.ready.result())
        del self._slots[slot.leaf]
        if slot in self._idle:
            self._idle.remove(slot)
        self._ring.give_back(slot.begin)


def _turn_of(slot: _Slot) -> int:
    assert slot.turn is not None
    return slot.turn
