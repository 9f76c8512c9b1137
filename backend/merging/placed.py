"""An adapter at a place in a model: how much of it is added where."""

from __future__ import annotations

from backend.adapters.lora_file import Adapter
from backend.adapters.patched import PlacedAdapter
from backend.merging.block_layout import BlockLayout
from backend.merging.layouts import weight_at
from backend.recipe import AdapterUse


def placed(use: AdapterUse, adapter: Adapter, layout: BlockLayout) -> PlacedAdapter:
    """layout: of the model; only a use with weights by block asks it."""
    weights = use.weights
    return PlacedAdapter(
        adapter=adapter,
        strength=use.strength,
        text_encoder_strength=use.text_encoder_strength,
        max_rank=use.max_rank,
        factor=lambda key: 1.0 if weights is None else weight_at(weights, layout.place_of(key)),
    )
