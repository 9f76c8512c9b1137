"""Where the U-Net lies in a file, in whichever usual layout, and what tells one from the other."""

from __future__ import annotations

from dataclasses import dataclass

from backend.families.diffusers_layout import unet_in_ldm_layout
from backend.families.file_facts import MARKERS
from backend.weights.source import Renamed, WeightSource, with_prefix

# LDM's prefix, that of a diffusers model in one file, and none, as in files of a U-Net alone.
_UNET_PREFIXES = ("model.diffusion_model.", "unet.", "")
_VIDEO_PARTS = (".time_stack.", ".temporal_transformer_blocks.", ".motion_modules.", ".temp_attentions.")


@dataclass(frozen=True, kw_only=True)
class UNetTraits:
    """What names and shapes tell of a U-Net without building it.

    context_width: of the text that it attends to. vector_width: of the vector added to the timestep, or None.
    linear_projections: whether linear layers surround its transformers (SD 2.x, XL) and not convolutions (SD 1.x).
    """

    in_channels: int
    out_channels: int
    model_channels: int
    context_width: int
    vector_width: int | None
    linear_projections: bool
    guidance_width: int | None


def unet_traits(source: WeightSource) -> UNetTraits | None:
    """None when the file holds no U-Net with attention to a text, or one for videos."""
    keys = source.keys()
    known = frozenset(keys)
    prefix = unet_prefix(source)
    if prefix is None or any(_is_of_video(key) for key in keys):
        return None
    context = next((key for key in keys if key.startswith(prefix) and key.endswith(".attn2.to_k.weight")), None)
    projection = next((key for key in keys if key.startswith(prefix) and key.endswith(".proj_in.weight")), None)
    first, last, vector, guidance = (
        next((prefix + name for name in names if prefix + name in known), None)
        for names in (
            ("input_blocks.0.0.weight", "conv_in.weight"),
            ("out.2.weight", "conv_out.weight"),
            ("label_emb.0.0.weight", "add_embedding.linear_1.weight", "class_embedding.linear_1.weight"),
            ("time_embed.cond_proj.weight", "time_embedding.cond_proj.weight"),
        )
    )
    if context is None or projection is None or first is None or last is None:
        return None
    needed = {key: source.spec(key).shape for key in (context, projection, first, last)}
    if any(len(shape) < 2 or 0 in shape for shape in needed.values()):
        return None
    return UNetTraits(
        in_channels=needed[first][1],
        out_channels=needed[last][0],
        model_channels=needed[first][0],
        context_width=needed[context][1],
        vector_width=_columns(source, vector),
        linear_projections=len(needed[projection]) == 2,
        guidance_width=_columns(source, guidance),
    )


def unet_prefix(source: WeightSource) -> str | None:
    """What the names of the U-Net's weights begin with, or None when the file holds none."""
    keys = frozenset(source.keys())
    for prefix in _UNET_PREFIXES:
        if f"{prefix}input_blocks.0.0.weight" in keys:
            return prefix
        if {f"{prefix}conv_in.weight", f"{prefix}down_blocks.0.resnets.0.conv1.weight"} <= keys:
            return prefix
    return None


def unet_in(source: WeightSource) -> WeightSource:
    """The U-Net of a file under LDM's names. A file without one gives a source without keys."""
    prefix = unet_prefix(source)
    if prefix:
        return unet_in_ldm_layout(with_prefix(source, prefix))
    if prefix is None:
        return with_prefix(source, _UNET_PREFIXES[0])
    return unet_in_ldm_layout(Renamed(source, lambda key: None if key in MARKERS else key))


def _columns(source: WeightSource, key: str | None) -> int | None:
    if key is None:
        return None
    shape = source.spec(key).shape
    return shape[1] if len(shape) == 2 else None


def _is_of_video(key: str) -> bool:
    return any(part in key for part in _VIDEO_PARTS)
