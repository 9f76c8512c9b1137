"""LoRAs that become part of a checkpoint: a recipe, which is saved as any other."""

from __future__ import annotations

from collections.abc import Sequence

from backend.errors import RequestError
from backend.recipe import AdapterUse, CheckpointInput, FileRef, Recipe, StoredDtype, WithAdapters


def bake_recipe(
    checkpoint: FileRef,
    adapters: Sequence[AdapterUse],
    *,
    dtype: StoredDtype = StoredDtype.AS_FIRST,
    name: str = "",
) -> Recipe:
    """The recipe of a checkpoint with LoRAs in it. Raises RequestError without any."""
    if not adapters:
        raise RequestError("adapters", "must name at least one LoRA")
    root = WithAdapters(model=CheckpointInput(file=checkpoint), adapters=tuple(adapters))
    return Recipe(root=root, dtype=dtype, name=name)
