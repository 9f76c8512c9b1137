"""Whether a job fits the memory and how it is made to, from sizes alone: before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from backend.errors import OutOfMemory
from backend.memory.byte_sizes import as_text
from backend.memory.placement import LeafSize, Placement, place

_ASIDE = 1.1  # what libraries take for themselves, and what lies between allocations, per byte of activations


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one network of a job runs. Bytes.

    working_bytes: for its activations. is_batched: whether cond and uncond run as one batch; if not, one after the
    other. tiles: in how many a picture is decoded; 1 is the whole. Both are without meaning for other networks.
    """

    title: str
    placement: Placement
    total_bytes: int
    working_bytes: int
    is_batched: bool = True
    tiles: int = 1

    @property
    def text(self) -> str:
        """One line for people: "U-Net of x: 2.1 GiB of 4.4 GiB resident, 2.3 GiB streamed"."""
        where = f"{as_text(self.placement.resident_bytes)} of {as_text(self.total_bytes)} resident"
        if self.placement.streamed_bytes:
            where += f", {as_text(self.placement.streamed_bytes)} streamed"
        beside = "" if self.is_batched else ", cond and uncond one after the other"
        beside += f", in {self.tiles} tiles" if self.tiles > 1 else ""
        return f"{self.title}: {where}, {as_text(self.working_bytes)} to work with{beside}"


def working_bytes(peak_bytes: int) -> int:
    """What is to be kept free for a call whose tensors take `peak_bytes` at the most."""
    return math.ceil(peak_bytes * _ASIDE)


def plan_denoiser(
    leaves: Sequence[LeafSize], budget: int, *, batched_peak: int, single_peak: int, keeps_once: bool, title: str
) -> Plan:
    """A step with guidance.

    Taking cond and uncond apart halves the activations, but reads streamed weights twice: a last resort.

    batched_peak, single_peak: `CallCost.peak_bytes` of both at once and of one. Raises OutOfMemory.
    """
    try:
        return _plan(leaves, budget, batched_peak, keeps_once=keeps_once, title=title)
    except OutOfMemory:
        return _plan(leaves, budget, single_peak, keeps_once=keeps_once, title=title, is_batched=False)


def plan_decoder(
    leaves: Sequence[LeafSize], budget: int, *, peaks: dict[int, int], keeps_once: bool, title: str
) -> Plan:
    """Decoding as a whole or in the fewest tiles. peaks: number of tiles -> `CallCost.peak_bytes` of one tile.

    A decoder that must come and go decodes as a whole rather than in tiles that each read it anew. Raises OutOfMemory.
    """
    *larger, most = sorted(peaks)
    for count in larger:
        try:
            return _plan(leaves, budget, peaks[count], keeps_once=keeps_once, title=title, tiles=count)
        except OutOfMemory:
            continue
    return _plan(leaves, budget, peaks[most], keeps_once=keeps_once, title=title, tiles=most)


def will_it_fit(plans: Sequence[Plan]) -> str:
    """A sentence for the user before generating, about the network that takes the most."""
    streamed = [plan for plan in plans if plan.placement.streamed_bytes]
    if not streamed:
        needed = max((plan.placement.num_bytes + plan.working_bytes for plan in plans), default=0)
        return f"Fits: it takes up to {as_text(needed)}."
    worst = max(streamed, key=lambda plan: plan.placement.streamed_bytes)
    return f"Runs with less memory than the model has: {worst.text}."


def _plan(
    leaves: Sequence[LeafSize],
    budget: int,
    peak: int,
    *,
    keeps_once: bool,
    title: str,
    is_batched: bool = True,
    tiles: int = 1,
) -> Plan:
    needed = working_bytes(peak)
    return Plan(
        title=title,
        placement=place(leaves, budget - needed, keeps_once=keeps_once, title=title),
        total_bytes=sum(leaf.num_bytes for leaf in leaves),
        working_bytes=needed,
        is_batched=is_batched,
        tiles=tiles,
    )
