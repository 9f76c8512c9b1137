"""supermerger's elemental lines: "IN05-OUT05:attn2 to_k:0.3", blocks, parts of names of weights, and a number.

An element stands for every weight in whose name it occurs. Here it is resolved into kinds of layers, so what divides a
kind ("weight", "bias") is refused, and text encoders, whose layers have no kind, are not meant by elements.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from backend.errors import RequestError
from backend.merging.block_layout import BlockLayout
from backend.merging.kinds import LAYERS, OTHER, UNET, LayerName
from backend.merging.layouts import network_blocks
from backend.merging.selectors import blocks_named
from backend.recipe import Override

_NOT = "NOT"
_NUMBERED = re.compile(r"\.?transformer_blocks\.(\d+)(\..*)?")
_IN_TRANSFORMER = "transformer_blocks"


def elemental_overrides(line: str, value: float, layout: BlockLayout, where: str) -> list[Override]:
    """What "BLOCKS:ELEMENTS" comes to. where: the place in the text. Raises RequestError."""
    named, _, elements = line.partition(":")
    blocks = _blocks(named.split(), layout, where)
    words = elements.split()
    if not words:
        return [Override(value=value, blocks=blocks)]
    if words[0] == _NOT:
        excluded = _layers(words[1:], layout, where)
        others = [layer for layer in LAYERS[layout.name] if layer not in excluded]
        return [*_overrides(value, blocks, others), Override(value=value, blocks=blocks, kinds=(OTHER,))]
    depths = [_NUMBERED.fullmatch(word) for word in words]
    plain = [word for word, depth in zip(words, depths, strict=True) if depth is None]
    overrides = _overrides(value, blocks, _layers(plain, layout, where)) if plain else []
    for found in depths:
        if found is not None:
            inside = [layer for layer in LAYERS[layout.name] if layer.is_in_transformer]
            layers = _matching(found[2], inside) if found[2] else inside
            inner = _in_depth(blocks, found[1], layout, where)
            overrides += _overrides(value, inner, _some(layers, found[0], where))
    return overrides


def _blocks(names: Sequence[str], layout: BlockLayout, where: str) -> tuple[str, ...]:
    """None for all. supermerger's BASE is everything outside of the network."""
    is_not, names = bool(names) and names[0] == _NOT, [name for name in names if name != _NOT]
    outside = tuple(block.name for block in layout.blocks if block.group in ("TE", "VAE"))
    found = blocks_named([name for name in names if name != "BASE"], layout, where)
    found = (*found, *outside) if "BASE" in names else found
    if not is_not:
        return found
    return tuple(block.name for block in layout.blocks if block.name not in found)


def _layers(words: Sequence[str], layout: BlockLayout, where: str) -> list[LayerName]:
    known = LAYERS[layout.name]
    found = [layer for word in words for layer in _some(_matching(word, known), word, where)]
    return [layer for layer in known if layer in found]


def _matching(word: str, layers: Sequence[LayerName]) -> list[LayerName]:
    def names(layer: LayerName) -> str:
        return f"{_IN_TRANSFORMER}{layer.part}" if layer.is_in_transformer else layer.part

    return [layer for layer in layers if word in names(layer)]


def _some(layers: list[LayerName], word: str, where: str) -> list[LayerName]:
    if not layers:
        raise RequestError(
            "weights",
            f'{where}: "{word[:60]}" names no kind of layer of this model; use parts of names like "attn1", "to_k", '
            '"ff" or "norm", and blocks like TIME or FINAL for what lies outside of the numbered blocks',
        )
    return layers


def _overrides(value: float, blocks: tuple[str, ...], layers: Sequence[LayerName]) -> list[Override]:
    streams = dict.fromkeys(layer.stream for layer in layers)
    return [
        Override(
            value=value,
            blocks=blocks,
            kinds=tuple(dict.fromkeys(layer.kind for layer in layers if layer.stream == stream)),
            streams=(stream,) if stream else (),
        )
        for stream in sorted(streams)
    ]


def _in_depth(blocks: tuple[str, ...], depth: str, layout: BlockLayout, where: str) -> tuple[str, ...]:
    """The block `depth` of the transformers, each of which is the second module of its block."""
    if LAYERS[layout.name] is not UNET:
        raise RequestError("weights", f"{where}: only U-Nets have transformers inside of blocks; name the block")
    inside = network_blocks(layout)
    return tuple(f"{block}.1.{depth}" for block in blocks or inside if block in inside)
