"""How much of a large picture the network sees at a time."""

from __future__ import annotations

from backend.diffusion.guidance import ConditionedNetwork
from backend.diffusion.tiled import tiled_network
from backend.families.family import Evaluation, Model
from backend.pipeline.plan import GenerationPlan
from backend.second_pass import TileMethod

# Several tiles in one call keep a device busy; where one alone does that already, more of them only take memory.
_MOST_AT_ONCE = 4
_PIXELS_AT_ONCE = 4 * 2**20


def network_size(plan: GenerationPlan) -> tuple[int, int]:
    """Width and height, in pixels, of what the network sees at a time: the picture, or a tile of it."""
    if plan.tiles is None:
        return plan.width, plan.height
    return min(plan.width, plan.tiles.size), min(plan.height, plan.tiles.size)


def seen_in_tiles(
    network: ConditionedNetwork, plan: GenerationPlan, model: Model, evaluation: Evaluation, *, is_scarce: bool
) -> ConditionedNetwork:
    """The network of `model`, which sees the picture as the plan says.

    evaluation: of one tile. is_scarce: whether more than one at a time would take memory that is not there.
    Tiles that are made apart, each to its end, are pictures of their own for the network.
    """
    if plan.tiles is None or plan.tiles.method is not TileMethod.MULTI_DIFFUSION:
        return network
    _, size, overlap = model.latent_shape(plan.tiles.overlap, plan.tiles.size)
    pixels = evaluation.images * evaluation.width * evaluation.height
    at_once = 1 if is_scarce else max(1, min(_MOST_AT_ONCE, _PIXELS_AT_ONCE // pixels))
    return tiled_network(network, size, overlap, tiles_per_call=at_once)
