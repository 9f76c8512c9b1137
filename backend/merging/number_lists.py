"""Lists of numbers, one a block, as other programs exchange them: which blocks they are for is told by their length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backend.errors import RequestError
from backend.merging.base_reading import BaseReading, block_weights
from backend.merging.block_layout import BlockLayout
from backend.merging.layouts import network_blocks
from backend.recipe import Override, Weights

BASE = "BASE"


def _numbered(group: str, *numbers: int) -> tuple[str, ...]:
    return tuple(f"{group}{number:02}" for number in numbers)


_FULL = (*_numbered("IN", *range(12)), "M00", *_numbered("OUT", *range(12)))
_XL = (*_numbered("IN", *range(9)), "M00", *_numbered("OUT", *range(9)))
# sd-webui-lora-block-weight's short lists, which leave out the blocks that LoRAs of SD 1.x and of SDXL do not have.
_SHORT_17 = (BASE, *_numbered("IN", 1, 2, 4, 5, 7, 8), "M00", *_numbered("OUT", *range(3, 12)))
_SHORT_12 = (BASE, *_numbered("IN", 4, 5, 7, 8), "M00", *_numbered("OUT", *range(6)))


def _parts(block: str, depth: int, *, is_sampled: bool = False, is_middle: bool = False) -> tuple[str, ...]:
    """The modules of a block: residual block, transformer and each block of that, and what follows."""
    transformer = (f"{block}.1", *(f"{block}.1.{index}" for index in range(depth)))
    return (f"{block}.0", *transformer, *((f"{block}.2",) if is_sampled or is_middle else ()))


# supermerger's list for SDXL in which every block of a transformer has a number of its own.
_EXTENDED_XL = (
    BASE, "TE1", "TE2", *_numbered("IN", 0, 1, 2, 3),
    *_parts("IN04", 2), *_parts("IN05", 2), "IN06", *_parts("IN07", 10), *_parts("IN08", 10),
    *_parts("M00", 10, is_middle=True),
    *_parts("OUT00", 10), *_parts("OUT01", 10), *_parts("OUT02", 10, is_sampled=True),
    *_parts("OUT03", 2), *_parts("OUT04", 2), *_parts("OUT05", 2, is_sampled=True), *_numbered("OUT", 6, 7, 8),
    "FINAL", "TIME", "LABEL", "VAE",
)  # fmt: skip
_FLUX_INPUTS = ("IMG_IN", "TXT_IN", "TIME", "VECTOR", "GUIDANCE")
_FLUX = ("TE1", "T5", "IN", *_numbered("D", *range(19)), *_numbered("S", *range(38)), "FINAL")


def names_by_length(layout: BlockLayout) -> Mapping[int, tuple[str, ...]]:
    """What the numbers of a list are for, for every length that is read for this layout."""
    blocks = network_blocks(layout)
    names = {len(blocks) + 1: (BASE, *blocks), len(blocks): blocks}
    if blocks == _FULL:
        names |= {20: (BASE, *_XL), 17: _SHORT_17, 12: _SHORT_12}
    elif blocks == _XL:
        names |= {26: (BASE, *_FULL), 25: _FULL, 12: _SHORT_12, 110: _EXTENDED_XL}
    elif layout.name == "flux" and len(blocks) == len(_FLUX) - 4:
        names[len(_FLUX)] = _FLUX
    return names


def number_weights(numbers: Sequence[float], layout: BlockLayout, reading: BaseReading, base: float) -> Weights:
    """Weights from one number a block. base: where the list has no BASE. Blocks that a short list leaves out get 0.

    Raises RequestError for a length that is not read.
    """
    known = names_by_length(layout)
    names = known.get(len(numbers))
    if names is None:
        listed = ", ".join(f"{length} ({_span(names)})" for length, names in sorted(known.items(), reverse=True))
        raise RequestError("weights", f"holds {len(numbers)} numbers; this model takes {listed}")
    values = dict(zip(names, numbers, strict=True))
    if names == _EXTENDED_XL:
        return Weights(base=values.pop(BASE), overrides=_each(values))
    if names == _FLUX:
        return Weights(base=base, overrides=_flux(values, reading))
    return block_weights(
        values.get(BASE, base), [values.get(block, 0.0) for block in network_blocks(layout)], layout, reading
    )


def _flux(values: Mapping[str, float], reading: BaseReading) -> tuple[Override, ...]:
    """supermerger never merges the autoencoder of FLUX."""
    overrides = [
        Override(value=value, blocks=_FLUX_INPUTS if name == "IN" else (name,)) for name, value in values.items()
    ]
    if reading is BaseReading.SUPERMERGER:
        overrides.append(Override(value=0.0, blocks=("VAE",)))
    return tuple(overrides)


def _each(values: Mapping[str, float]) -> tuple[Override, ...]:
    return tuple(Override(value=value, blocks=(name,)) for name, value in values.items())


def _span(names: Sequence[str]) -> str:
    return f"{names[0]}, {names[1]} ... {names[-1]}"
