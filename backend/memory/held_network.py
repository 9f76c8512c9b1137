"""A network whose layers are in memory, or come and go, as its placement says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor, Future, wait

import torch
from torch import Tensor

from backend.memory.layouts import Layout
from backend.memory.leaves import Leaf, leaves_of, on_meta, total_bytes
from backend.memory.mapped_pages import forget_pages
from backend.memory.part import Part
from backend.memory.placement import LeafSize, Placement
from backend.memory.streamer import Streamer
from backend.memory.supply import Supply
from backend.memory.transport import Mark


class HeldNetwork:
    """The network of a part. It can be called at any time; what it has not in memory it fetches.

    small: layers below so many bytes always stay. admit: makes room for so many bytes, before they are taken.
    Raises KeysDoNotMatch when names or shapes are not those of the part's source.
    """

    def __init__(
        self, part: Part, supply: Supply, readers: Executor, small: int, admit: Callable[[HeldNetwork, int], None]
    ) -> None:
        self.part = part
        self.module = on_meta(part)
        self._supply = supply
        self._readers = readers
        self._small = small
        self._admit = admit
        leaves = leaves_of(self.module, part)
        self._tables = tuple(leaf for leaf in leaves if leaf.name in part.tables)
        self._leaves = tuple(leaf for leaf in leaves if leaf not in self._tables)
        self._resident: dict[Leaf, dict[str, Tensor]] = {}  # by attribute
        self._streamers: tuple[Streamer, ...] = ()
        self.placement: Placement | None = None
        self._spare: dict[str, list[Tensor]] = {}  # by the way of their layouts

    @property
    def is_on_host(self) -> bool:
        return self.part.target.device.type == "cpu"

    @property
    def device_bytes(self) -> int:
        """Memory that is taken where the network computes."""
        return self.resident_bytes + sum(streamer.num_bytes for streamer in self._streamers)

    @property
    def resident_bytes(self) -> int:
        return total_bytes(tuple(self._resident))

    @property
    def streamed_bytes(self) -> int:
        return total_bytes([leaf for leaf in self._leaves if leaf not in self._resident])

    @property
    def table_bytes(self) -> int:
        return total_bytes(self._tables)

    def sizes(self) -> list[LeafSize]:
        return [
            LeafSize(
                name=leaf.name,
                num_bytes=leaf.num_bytes,
                stays=leaf.num_bytes < self._small or leaf.has_children or leaf.name in self.part.often,
                is_once=leaf.name in self.part.once,
            )
            for leaf in self._leaves
        ]

    def arrange(self, placement: Placement) -> None:
        """Let go of what leaves, and then load what comes. Raises BadCheckpoint, and what PyTorch raises without
        memory; the network can be used afterwards all the same."""
        if placement == self.placement and placement.resident == frozenset(leaf.name for leaf in self._resident):
            return
        self.placement = placement
        self._stop_streaming()
        self._remove(leaf for leaf in tuple(self._resident) if leaf.name not in placement.resident)
        try:
            self._load_tables()
            stay = [leaf for leaf in self._leaves if leaf.name in placement.resident]
            self._load([leaf for leaf in stay if leaf not in self._resident])
        finally:
            self._spare.clear()
            self._stream()

    def take_over(self, lender: HeldNetwork, wanted: Collection[str]) -> int:
        """Have layers of these names from another network, where that has them with the same weights.

        That one fetches them again if it is used. `arrange` must follow. Returns how many bytes they are.
        """
        missing = [leaf for leaf in self._leaves if leaf.name in wanted and leaf not in self._resident]
        given = lender.give({leaf.identity for leaf in missing})
        if not given:
            return 0
        self._stop_streaming()
        self.placement = None  # so that the rest is arranged anew
        before = self.resident_bytes
        for leaf in missing:
            if (weights := given.pop(leaf.identity, None)) is not None:
                self._place(leaf, weights)
        return self.resident_bytes - before

    def give(self, identities: Collection[str]) -> dict[str, dict[str, Tensor]]:
        """Part with the resident layers of these identities: their weights, by identity and attribute."""
        leaving = [leaf for leaf in self._resident if leaf.identity in identities]
        if not leaving:
            return {}
        self._stop_streaming()
        given = {leaf.identity: self._resident.pop(leaf) for leaf in leaving}
        for leaf in leaving:
            leaf.remove()
        self._stream()
        return given

    def reuse(self, lender: HeldNetwork) -> None:
        """Empty another network, whose memory is filled anew by the `arrange` that must follow."""
        for leaf, weights in lender.empty().items():
            for tensor in leaf.tensors:
                if self.is_on_host and not tensor.layout.is_as_stored:
                    self._spare.setdefault(tensor.layout.way, []).append(weights[tensor.attribute])

    def empty(self) -> dict[Leaf, dict[str, Tensor]]:
        """Part with all resident layers, whose memory nobody else uses."""
        self._stop_streaming()
        left = dict(self._resident)
        self._remove(left)
        self._stream()
        return left

    def shed(self, num_bytes: int) -> None:
        """Give up at least `num_bytes` bytes, if there are so many: rings, and then the largest layers."""
        for streamer in self._streamers:
            num_bytes -= streamer.num_bytes
            streamer.release()
        leaving: list[Leaf] = []
        for leaf in sorted(self._resident, key=lambda leaf: -leaf.num_bytes):
            if num_bytes <= 0:
                break
            leaving.append(leaf)
            num_bytes -= leaf.num_bytes
        if leaving:
            self._stop_streaming()
            self._remove(leaving)
            self._stream()

    def forget_pages(self) -> None:
        """Take what are views of files out of the process's memory; whoever still uses the network reads them anew."""
        if self.is_on_host:
            forget_pages([weight for weights in tuple(self._resident.values()) for weight in weights.values()])

    def _stop_streaming(self) -> None:
        for streamer in self._streamers:
            streamer.detach()
        self._streamers = ()

    def _stream(self) -> None:
        placement = self.placement
        assert placement is not None
        passing = [leaf for leaf in self._leaves if leaf not in self._resident]
        groups = (
            ([leaf for leaf in passing if leaf.name not in self.part.once], placement.ring_bytes, False),
            ([leaf for leaf in passing if leaf.name in self.part.once], placement.once_ring_bytes, True),
        )
        self._streamers = tuple(
            Streamer(
                leaves,
                self._supply,
                ring_bytes or 2 * max(leaf.num_bytes for leaf in leaves),
                lambda num_bytes: self._admit(self, num_bytes),
                is_ephemeral=is_once,
            )
            for leaves, ring_bytes, is_once in groups
            if leaves
        )

    def _remove(self, leaves: Iterable[Leaf]) -> None:
        left: list[Tensor] = []
        for leaf in leaves:
            weights = self._resident.pop(leaf)
            leaf.remove()
            left += [weights[tensor.attribute] for tensor in leaf.tensors if tensor.layout.is_as_stored]
        if self.is_on_host and left:
            forget_pages(left)

    @torch.inference_mode(False)
    def _load_tables(self) -> None:
        for leaf in self._tables:
            leaf.place({t.attribute: t.layout.view_of(self.part.source, t.key) for t in leaf.tensors})

    @torch.inference_mode(False)
    def _load(self, leaves: list[Leaf]) -> None:
        load = self._load_on_host if self.is_on_host else self._load_on_device
        for leaf, weights in load(leaves).items():
            self._place(leaf, weights)

    @torch.inference_mode(False)
    def _place(self, leaf: Leaf, weights: dict[str, Tensor]) -> None:
        self._resident[leaf] = weights
        leaf.place(weights)

    def _load_on_host(self, leaves: list[Leaf]) -> dict[Leaf, dict[str, Tensor]]:
        """Views of the file where it holds them as they are wanted."""
        # All memory is taken by one thread: the C library keeps some of what is given back for each that took any.
        rooms = {
            leaf: {t.attribute: None if t.layout.is_as_stored else self._room(t.layout) for t in leaf.tensors}
            for leaf in leaves
        }
        found = [self._readers.submit(self._fill, leaf, room) for leaf, room in rooms.items()]
        wait(found)
        return dict(zip(leaves, [future.result() for future in found], strict=True))

    def _room(self, layout: Layout) -> Tensor:
        """What is there already, because fresh memory costs nearly as much as filling it."""
        spare = self._spare.get(layout.way)
        return spare.pop() if spare else layout.empty(self.part.target.device)

    def _fill(self, leaf: Leaf, rooms: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {}
        with torch.inference_mode(False):
            for tensor in leaf.tensors:
                room = rooms[tensor.attribute]
                if room is None:
                    weights[tensor.attribute] = tensor.layout.view_of(self.part.source, tensor.key)
                else:
                    tensor.layout.read_into(self.part.source, tensor.key, room)
                    weights[tensor.attribute] = room
        return weights

    def _load_on_device(self, leaves: list[Leaf]) -> dict[Leaf, dict[str, Tensor]]:
        buffers = {leaf: self._supply.empty(leaf.num_bytes) for leaf in leaves}
        begin = self._supply.now()  # whoever had this memory before has finished by then
        coming: list[Future[Mark]] = [
            self._supply.fetch(leaf, buffer, begin, returns=False) for leaf, buffer in buffers.items()
        ]
        wait(coming)
        for future in coming:
            self._supply.wait(future.result())
        return {leaf: leaf.within(buffer) for leaf, buffer in buffers.items()}
