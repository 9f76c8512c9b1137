"""How the parts of a model run on the memory that there is: from headers, and from runs on tensors without contents."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from backend.errors import OutOfMemory
from backend.families.family import Evaluation, Machine
from backend.memory.dry_run import Call
from backend.memory.part import Part
from backend.memory.planner import Plan, plan_decoder, plan_denoiser
from backend.tile_boxes import spans

# A calculation takes seconds at the first time. It would say "everything stays" where weights take at most this share
# of the budget, unless the pictures are very large.
_AMPLE_SHARE = 0.5
_MANY_PIXELS = 4 * 2**20
# Sides in latent pixels, the largest first. Smaller ones show too little of a picture at a time for its statistics.
_TILES = (128, 96, 64, 48)


def needs_plan(machine: Machine, part: Part, evaluation: Evaluation) -> bool:
    """Whether it has to be calculated how a network runs before it does."""
    weights = sum(leaf.num_bytes for leaf in machine.residency.sizes(part))
    pixels = evaluation.images * evaluation.width * evaluation.height
    return weights > _AMPLE_SHARE * machine.residency.budget or pixels > _MANY_PIXELS


def plan_network(machine: Machine, part: Part, evaluation: Evaluation, call: Callable[[Evaluation], Call]) -> Plan:
    """Conditionings in one call where that fits, or else one after the other. Raises OutOfMemory."""

    def peak(images: int) -> int:
        single = dataclasses.replace(evaluation, images=images)
        return machine.costs.of(part, repr(single), call(single)).peak_bytes

    def plan(batched: int, single: int) -> Plan:
        return plan_denoiser(
            machine.residency.sizes(part),
            machine.residency.budget,
            batched_peak=batched,
            single_peak=single,
            keeps_once=machine.device.is_host,
            title=part.title,
        )

    batched = peak(evaluation.images)
    try:
        return plan(batched, batched)
    except OutOfMemory:
        if evaluation.images < 2:
            raise
        return plan(batched, peak(evaluation.images // 2))


def plan_encoder(machine: Machine, part: Part) -> Plan:
    """A text encoder, whose activations are next to nothing. Raises OutOfMemory."""
    return plan_denoiser(
        machine.residency.sizes(part),
        machine.residency.budget,
        batched_peak=0,
        single_peak=0,
        keeps_once=machine.device.is_host,
        title=part.title,
    )


def plan_in_tiles(
    machine: Machine,
    part: Part,
    latent_size: tuple[int, int],
    overlap: int,
    label: str,
    call: Callable[[int | None], Call],
) -> Plan:
    """The whole picture where that fits, or else the fewest tiles. latent_size: height, width.

    call: of a tile of so many latent pixels, beside what the whole picture takes; of the whole for None.
    label: "decode", "encode": what is calculated. Raises OutOfMemory.
    """

    def peak(tile: int | None) -> int:
        shapes = f"{label} {latent_size}" if tile is None else f"{label} {latent_size} in tiles of {tile}"
        return machine.costs.of(part, shapes, call(tile)).peak_bytes

    def plan(tiles: dict[int, int | None]) -> Plan:
        return plan_decoder(
            machine.residency.sizes(part),
            machine.residency.budget,
            peaks={count: peak(tile) for count, tile in tiles.items()},
            keeps_once=machine.device.is_host,
            title=part.title,
        )

    try:
        return plan({1: None})
    except OutOfMemory:
        tiles: dict[int, int | None] = {num_tiles(latent_size, tile, overlap): tile for tile in _sides(latent_size)}
        if not tiles:
            raise
        return plan(tiles)


def num_tiles(latent_size: Sequence[int], tile: int, overlap: int) -> int:
    """How many tiles of `tile` x `tile` latent pixels that overlap by `overlap` cover a picture."""
    return math.prod(len(spans(side, tile, overlap)) for side in latent_size)


def tile_of(latent_size: tuple[int, int], tiles: int, overlap: int) -> int:
    """The side of the tiles of which `tiles` cover a picture; the smaller ones where two sizes need as many."""
    return next(tile for tile in reversed(_sides(latent_size)) if num_tiles(latent_size, tile, overlap) == tiles)


def _sides(latent_size: tuple[int, int]) -> list[int]:
    """Of tiles, the largest first."""
    return [tile for tile in _TILES if tile < max(latent_size)]
