"""What BASE, and what lies outside of the blocks, means in lists of numbers from other programs: they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from backend.merging.block_layout import BlockLayout
from backend.merging.layouts import network_blocks
from backend.recipe import Override, Weights


class BaseReading(Enum):
    """How a list of numbers is to be understood.

    OWN: everything outside of the blocks takes BASE. SUPERMERGER: time and size embedding take IN00, the last layer
    takes the last block. SD_MECHA: the last layer takes the last block; SDXL's autoencoder stays the first model's.
    SD_NEXT: what it computes, where every block takes the number before its own.
    """

    OWN = "own"
    SUPERMERGER = "supermerger"
    SD_MECHA = "sd-mecha"
    SD_NEXT = "sdnext"

    @property
    def label(self) -> str:
        return _LABELS[self]


_LABELS = {
    BaseReading.OWN: "BASE is everything outside of the blocks",
    BaseReading.SUPERMERGER: "as in supermerger",
    BaseReading.SD_MECHA: "as in sd-mecha",
    BaseReading.SD_NEXT: "as SD.Next computes",
}


def block_weights(base: float, values: Sequence[float], layout: BlockLayout, reading: BaseReading) -> Weights:
    """values: of the blocks of the network, in order. What others mean by them is spelt out in overrides."""
    blocks = network_blocks(layout)
    is_unet = any(block.group == "IN" for block in layout.blocks)
    outside: dict[str, float] = {}
    match reading if is_unet else BaseReading.OWN:
        case BaseReading.OWN:
            pass
        case BaseReading.SUPERMERGER:
            outside = {"TIME": values[0], "LABEL": values[0], "FINAL": values[-1]}
        case BaseReading.SD_MECHA:
            outside = {"FINAL": values[-1], **({"VAE": 0.0} if layout.name == "sdxl" else {})}
        case BaseReading.SD_NEXT:
            last, values = values[-1], (base, *values[:-1])
            outside = {"LABEL": last, "FINAL": values[-1]}
    present = {block.name for block in layout.blocks}
    named = [*zip(blocks, values, strict=True), *((name, value) for name, value in outside.items() if name in present)]
    return Weights(base=base, overrides=tuple(Override(value=value, blocks=(name,)) for name, value in named))
