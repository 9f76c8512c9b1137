"""Which layers of a network stay in memory and which come and go, from their sizes alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backend.errors import OutOfMemory
from backend.memory.byte_sizes import as_text

SMALL = 64 * 2**10  # smaller layers are a quarter of all of them and next to none of the bytes: they always stay
_WIDE_RING = 512 * 2**20


@dataclass(frozen=True, kw_only=True)
class LeafSize:
    """A layer. stays: it cannot come and go. is_once: it runs once per job, so that it need not stay."""

    name: str
    num_bytes: int
    stays: bool = False
    is_once: bool = False


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Names of the layers that stay, and bytes of the rings that the others pass through."""

    resident: frozenset[str]
    resident_bytes: int
    ring_bytes: int = 0
    once_ring_bytes: int = 0
    streamed_bytes: int = 0

    @property
    def num_bytes(self) -> int:
        """Of memory."""
        return self.resident_bytes + self.ring_bytes + self.once_ring_bytes


def place(leaves: Sequence[LeafSize], room: int, *, keeps_once: bool, title: str) -> Placement:
    """Everything, if it fits into `room` bytes; or else the largest layers, which then need no room in the ring.

    keeps_once: whether layers that run once stay as well if everything fits.
    Raises OutOfMemory when there is no room for the largest layer beside those that must stay.
    """
    kept = [leaf for leaf in leaves if keeps_once or leaf.stays or not leaf.is_once]
    once = [leaf for leaf in leaves if leaf.is_once and not leaf.stays]
    passing = 0 if keeps_once else _narrow_ring_for(once, room)
    if _total(kept) + passing <= room and (keeps_once or passing >= _largest(once)):
        return _placement(leaves, kept, 0, passing)
    fixed = [leaf for leaf in leaves if leaf.stays]
    others = sorted((leaf for leaf in leaves if not leaf.stays and not leaf.is_once), key=lambda leaf: -leaf.num_bytes)
    spare = room - _total(fixed) - _largest(others)
    passing = min(_narrow_ring_for(once, room), max(spare, _largest(once)))
    left = room - _total(fixed) - passing
    if left < _largest(others) or passing < _largest(once):
        needed = _total(fixed) + _largest(others) + _largest(once)
        raise OutOfMemory(
            f"{title} needs {as_text(needed)} at the least, but {as_text(max(0, room))} are left for its weights: "
            f"{as_text(max(needed - room, 1))} are missing. Make the picture smaller, raise the budget with "
            "--memory-budget, close other programs, or choose a smaller model."
        )
    resident = _largest_first(others, left)
    streamed = [leaf for leaf in others if leaf not in resident]
    ring = min(left - _total(resident), max(2 * _largest(streamed), _WIDE_RING), _total(streamed))
    return _placement(leaves, fixed + resident, ring, passing)


def _placement(leaves: Sequence[LeafSize], kept: Sequence[LeafSize], ring: int, once_ring: int) -> Placement:
    names = frozenset(leaf.name for leaf in kept)
    return Placement(
        resident=names,
        resident_bytes=_total(kept),
        ring_bytes=ring,
        once_ring_bytes=once_ring,
        streamed_bytes=_total(leaf for leaf in leaves if leaf.name not in names),
    )


def _largest_first(leaves: Sequence[LeafSize], room: int) -> list[LeafSize]:
    """Of layers in the order of their sizes, those that stay beside a ring for the others."""
    count = next((n for n in range(len(leaves), 0, -1) if _total(leaves[:n]) + _ring_for(leaves[n:], room) <= room), 0)
    chosen = list(leaves[:count])
    room -= _total(chosen) + _ring_for(leaves[count:], room)
    for leaf in leaves[count:]:
        if leaf.num_bytes <= room:
            chosen.append(leaf)
            room -= leaf.num_bytes
    return chosen


def _ring_for(leaves: Sequence[LeafSize], room: int) -> int:
    """More where there is plenty of room, so that copies run ahead of short layers while long ones run."""
    if not leaves:
        return 0
    return max(_narrow_ring_for(leaves, room), min(_WIDE_RING, room // 4, _total(leaves)))


def _narrow_ring_for(leaves: Sequence[LeafSize], room: int) -> int:
    """Two of the largest layers, so that one is copied while another runs."""
    return min(2 * _largest(leaves), max(room, 0), _total(leaves))


def _largest(leaves: Sequence[LeafSize]) -> int:
    return max((leaf.num_bytes for leaf in leaves), default=0)


def _total(leaves: Iterable[LeafSize]) -> int:
    return sum(leaf.num_bytes for leaf in leaves)
