"""The blocks of a model, what a set of weights comes to at each place, and how much of a model each block is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from backend.errors import UnsupportedMerge
from backend.merging.block_hints import OUTSIDE, hint_for
from backend.merging.block_layout import Block, BlockLayout, Place
from backend.merging.kinds import fits, kind_labels
from backend.merging.network_blocks import NETWORKS, NetworkBlocks
from backend.merging.places import Places
from backend.recipe import Override, Weights
from backend.weights.source import WeightSource

STACKS = ("IN", "M", "OUT", "J", "D", "S", "B")  # groups of the blocks that a picture passes one after the other
OUTSIDE_NETWORK = ("TE", "VAE")
_NUMBERED = re.compile(r"([A-Z]+)(\d\d+)")
_AVERAGES = "model_ema."


def layout_of(family: str, keys: Sequence[str] = ()) -> BlockLayout:
    """The blocks of a family. keys: of the model, so that a narrower or deeper one has the blocks that it has.

    Without them the layout is that of the published models (of SD 3, that of the medium ones: 24 blocks), and U-Nets
    in diffusers' names are not understood. Raises UnsupportedMerge for a family without known blocks.
    """
    if family not in NETWORKS:
        raise UnsupportedMerge(
            f'Models of the family "{family}" cannot be merged: their blocks are not known. Families that can: '
            f"{', '.join(NETWORKS)}."
        )
    network = NETWORKS[family]
    places = Places(network, keys)
    found = {places.of(key).block for key in keys}
    return BlockLayout(
        name=family,
        blocks=(*_stacked(network, found), *_outside(network)),
        kinds=kind_labels(network.layers),
        streams=network.streams,
        place_of=places.of,
    )


def network_blocks(layout: BlockLayout) -> tuple[str, ...]:
    """The names of those that a picture passes one after the other: what lists of numbers are for."""
    return tuple(block.name for block in layout.blocks if block.group in STACKS)


def weight_at(weights: Weights, place: Place) -> float:
    """The value of the last override that fits, or the base."""
    return next((found.value for found in reversed(weights.overrides) if is_for(found, place)), weights.base)


def is_for(override: Override, place: Place) -> bool:
    """Whether a weight at this place is one of those that the override names."""
    block = f"{place.block}.{place.part}" if place.part else place.block
    return (
        (not override.blocks or any(fits(wanted, block) for wanted in override.blocks))
        and (not override.kinds or any(fits(wanted, place.kind) for wanted in override.kinds))
        and (not override.streams or place.stream in override.streams)
    )


def parameters(layout: BlockLayout, source: WeightSource) -> dict[str, int]:
    """How many numbers each block has, and "" those of no block. Averaged (EMA) copies are not counted."""
    counts = Counter({block.name: 0 for block in layout.blocks})
    for key in source.keys():
        if not key.startswith(_AVERAGES):
            counts[layout.place_of(key).block] += source.spec(key).num_elements
    return dict(counts)


def shares(layout: BlockLayout, source: WeightSource) -> dict[str, float]:
    """How much each block is of the network that denoises; text encoders and autoencoder, of the whole file. 0 to 1."""
    counts = parameters(layout, source)
    outside = {block.name for block in layout.blocks if block.group in OUTSIDE_NETWORK}
    whole = sum(counts.values())
    network = whole - counts.get("", 0) - sum(counts[name] for name in outside)
    return {
        block.name: counts[block.name] / max(whole if block.name in outside else network, 1) for block in layout.blocks
    }


def _stacked(network: NetworkBlocks, found: set[str]) -> list[Block]:
    numbers: dict[str, list[int]] = {stack.group: [] for stack in network.stacks}
    for name in found:
        match = _NUMBERED.fullmatch(name)
        if match is not None and match[1] in numbers:
            numbers[match[1]].append(int(match[2]))
    if not any(numbers.values()):
        numbers = {stack.group: list(range(stack.count)) for stack in network.stacks}
    return [
        Block(name=f"{group}{number:02}", label=f"{group}{number:02}", group=group,
              hint=hint_for(group, index, len(listed)))
        for group, listed in numbers.items()
        for index, number in enumerate(sorted(listed))
    ]  # fmt: skip


def _outside(network: NetworkBlocks) -> list[Block]:
    grouped = {"REST": network.rest, "TE": network.encoders, "VAE": network.vae}
    return [
        Block(name=name, label=label, group=group, hint=OUTSIDE[name])
        for group, blocks in grouped.items()
        for name, label in blocks.items()
    ]
