"""Files that are known by name and not run: networks that restore or enlarge pictures otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from backend.upscaling.wrappers import unwrapped
from backend.weights.source import WeightSource

# Each with names of weights that all lie in its files and together in no other's; the first kind that fits counts.
_KINDS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("HAT", ("layers.0.residual_group.overlap_attn.relative_position_bias_table",)),
    ("Swin2SR", ("layers.0.residual_group.blocks.0.attn.logit_scale",)),
    ("DAT", ("layers.0.blocks.0.attn.attns.0.pos.pos_proj.weight",)),
    ("SCUNet", ("m_head.0.weight", "m_tail.0.weight")),
    ("SPAN", ("block_1.c1_r.sk.weight",)),
    ("OmniSR", ("residual_layer.0.residual_layer.0.layer.0.fn.0.weight",)),
    ("Real-CUGAN", ("unet1.conv1.conv.0.weight", "unet2.conv1.conv.0.weight")),
    ("ESRGAN+", ("model.1.sub.0.RDB1.conv1x1.weight",)),
    ("GFPGAN", ("stylegan_decoder.style_mlp.1.weight",)),
    ("CodeFormer", ("quantize.embedding.weight", "position_emb")),
    ("RestoreFormer", ("vqvae.quantize.embedding.weight",)),
    ("LDSR", ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.quantize.embedding.weight")),
)


def kind_by_its_keys(source: WeightSource) -> str:
    """The name of the network that a file is for; "" where it is none of those."""
    keys = set(unwrapped(source).keys())
    return next((name for name, marks in _KINDS if all(mark in keys for mark in marks)), "")
