"""What a weight file is, from its names and shapes; and what to say of one that is nothing known, or two things."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from backend.errors import UnsupportedCheckpoint
from backend.families.family import Family, identify
from backend.families.known import has_keys
from backend.weights.source import WeightSource

# One weight of each kind of network that a file can hold one of.
_NETWORKS = {
    "a U-Net (Stable Diffusion)": "input_blocks.0.0.weight",
    "an MMDiT (Stable Diffusion 3)": "joint_blocks.0.x_block.attn.qkv.weight",
    "a FLUX transformer": "double_blocks.0.img_attn.qkv.weight",
    "a PixArt transformer": "t_block.1.weight",
}
_TEXTS = {
    "the text encoder of SD 1.x": "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
    "the text encoder of SD 2.x": "cond_stage_model.model.token_embedding.weight",
    "the text encoders of SDXL": "conditioner.embedders.1.model.token_embedding.weight",
}


def recognised(source: WeightSource, families: Sequence[Family]) -> Family:
    """The family of a file, or the kind that it is known as.

    Raises UnsupportedCheckpoint for a mixture of two, which it names, and for a file of no known kind, of which it
    tells what was found.
    """
    for kinds in (_NETWORKS, _TEXTS):
        found = [label for label, name in kinds.items() if has_keys(name)(source)]
        if len(found) > 1:
            raise UnsupportedCheckpoint(
                source.origin,
                f"it holds {found[0]} and also {found[1]}: two models were saved into one file. Use the original "
                "file of one of them.",
            )
    family = identify(source, families)
    if family is None:
        raise UnsupportedCheckpoint(source.origin, unknown_content(source))
    return family


def unknown_content(source: WeightSource) -> str:
    """What lies in a file that no family recognises, and what to do."""
    keys = source.keys()
    if not keys:
        return "it holds no tensors at all. Download it again."
    begins = Counter(".".join(key.split(".")[:2])[:60] for key in keys)
    listed = ", ".join(f'"{begin}" ({count})' for begin, count in begins.most_common(4))
    return (
        f"it holds {len(keys)} tensors, of no kind of model that this version knows; their names begin with {listed}. "
        "If it is a model for pictures, use its single-file checkpoint; if it is a part or an addition, it does not "
        "belong into models/checkpoints."
    )
