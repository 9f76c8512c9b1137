"""Read the configuration of a diffusion transformer off the names and shapes of its weights."""

from __future__ import annotations

import math

from backend.errors import KeysDoNotMatch
from backend.families.shapes import Shapes
from backend.nn.flux import FluxConfig
from backend.nn.mmdit import MMDiTConfig
from backend.nn.pixart import PixArtConfig
from backend.weights.source import WeightSource

_PART = "transformer"
_MMDIT_HEAD = 64  # width of the heads of every published SD 3; where they are normalised, shapes say it
_PIXART_HEADS = 16


def mmdit_config_from(source: WeightSource) -> MMDiTConfig:
    """Raises KeysDoNotMatch."""
    shapes = Shapes(source, _PART)
    width, in_channels, patch, _ = _of_rank(shapes, "x_embedder.proj.weight", 4)
    block = "joint_blocks.0.x_block."
    has_query_norm = f"{block}attn.ln_q.weight" in shapes
    head_dim = shapes[f"{block}attn.ln_q.weight"][0] if has_query_norm else _MMDIT_HEAD
    return MMDiTConfig(
        in_channels=in_channels,
        out_channels=shapes["final_layer.linear.weight"][0] // patch**2,
        patch=patch,
        width=width,
        heads=_heads(shapes, width, head_dim),
        blocks=shapes.count("joint_blocks.", ".x_block.attn.qkv.weight"),
        mlp_width=shapes[f"{block}mlp.fc1.weight"][0],
        context_dim=_of_rank(shapes, "context_embedder.weight", 2)[1],
        vector_dim=_of_rank(shapes, "y_embedder.mlp.0.weight", 2)[1],
        dual_blocks=shapes.count("joint_blocks.", ".x_block.attn2.qkv.weight"),
        has_query_norm=has_query_norm,
    )


def flux_config_from(source: WeightSource) -> FluxConfig:
    """Raises KeysDoNotMatch."""
    shapes = Shapes(source, _PART)
    width, in_channels = _of_rank(shapes, "img_in.weight", 2)
    return FluxConfig(
        in_channels=in_channels,
        out_channels=shapes["final_layer.linear.weight"][0],
        width=width,
        heads=_heads(shapes, width, shapes["double_blocks.0.img_attn.norm.query_norm.scale"][0]),
        mlp_width=shapes["double_blocks.0.img_mlp.0.weight"][0],
        double_blocks=shapes.count("double_blocks.", ".img_attn.qkv.weight"),
        single_blocks=shapes.count("single_blocks.", ".linear1.weight"),
        context_dim=_of_rank(shapes, "txt_in.weight", 2)[1],
        vector_dim=_of_rank(shapes, "vector_in.in_layer.weight", 2)[1],
        is_guided="guidance_in.in_layer.weight" in shapes,
    )


def pixart_config_from(source: WeightSource) -> PixArtConfig:
    """Raises KeysDoNotMatch."""
    shapes = Shapes(source, _PART)
    width, in_channels, patch, _ = _of_rank(shapes, "x_embedder.proj.weight", 4)
    return PixArtConfig(
        in_channels=in_channels,
        out_channels=shapes["final_layer.linear.weight"][0] // patch**2,
        patch=patch,
        width=width,
        heads=_heads(shapes, width, width // _PIXART_HEADS),
        blocks=shapes.count("blocks.", ".attn.qkv.weight"),
        mlp_width=shapes["blocks.0.mlp.fc1.weight"][0],
        context_dim=_of_rank(shapes, "y_embedder.y_proj.fc1.weight", 2)[1],
        is_told_sizes="csize_embedder.mlp.0.weight" in shapes,
    )


def side_of_table(shape: tuple[int, ...]) -> int:
    """The side of a square table of positions [1, side * side, D]; 0 for a tensor that is none."""
    side = math.isqrt(shape[1]) if len(shape) == 3 else 0
    return side if side and shape[1] == side**2 else 0


def _of_rank(shapes: Shapes, key: str, rank: int) -> tuple[int, ...]:
    shape = shapes[key]
    if len(shape) != rank or min(shape) < 1:
        raise KeysDoNotMatch(shapes.source.origin, _PART, misshaped=[f"{key} {list(shape)}"])
    return shape


def _heads(shapes: Shapes, width: int, head_dim: int) -> int:
    if head_dim < 1 or width % head_dim:
        raise KeysDoNotMatch(shapes.source.origin, _PART, misshaped=[f"a width of {width} with heads of {head_dim}"])
    return width // head_dim
