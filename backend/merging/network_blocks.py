"""The blocks of each family's network, by what the names of their weights begin with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from backend.merging.kinds import FLUX, PIXART, SD3, UNET, LayerName

_LATENTS_IN, _TEXT_IN, _LAST = "Latents in", "Text in", "Last layer"
_CLIP_L, _CLIP_G = "Text encoder (CLIP-L)", "Text encoder (CLIP-G)"
_VAE = {"VAE": "Autoencoder (VAE)"}
_TIME = {"TIME": "Time embedding"}


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Blocks that follow each other. group: what their names begin with, before two digits ("IN" of "IN04").

    prefixes: what the names of their weights begin with; the number of the block follows. count: in published models.
    is_numbered: whether it does; the middle of a U-Net is one block without a number.
    has_parts: whether one can go by the modules inside of a block.
    """

    group: str
    prefixes: tuple[str, ...]
    count: int
    is_numbered: bool = True
    has_parts: bool = False


@dataclass(frozen=True, kw_only=True)
class NetworkBlocks:
    """What is known of a family. stacks: in the order in which a picture passes them.

    ends: block and stream of what lies outside of the stacks, by the beginning of its name. layers: see `LayerName`.
    rest: blocks of the network outside of the stacks, encoders: text encoders, each with its label.
    """

    family: str
    stacks: tuple[Stack, ...]
    ends: Mapping[str, tuple[str, str]]
    layers: tuple[LayerName, ...]
    rest: Mapping[str, str]
    encoders: Mapping[str, str]
    streams: Mapping[str, str] = field(default_factory=dict[str, str])
    prefixes: tuple[str, ...] = ("model.diffusion_model.", "diffusion_model.", "transformer.")
    vae: Mapping[str, str] = field(default_factory=lambda: _VAE)


def _unet(family: str, levels: int, encoders: Mapping[str, str], *, has_vector: bool) -> NetworkBlocks:
    """levels: of resolution, with three blocks each on both ways."""
    return NetworkBlocks(
        family=family,
        stacks=(
            Stack(group="IN", prefixes=("input_blocks.",), count=3 * levels, has_parts=True),
            Stack(group="M", prefixes=("middle_block.",), count=1, is_numbered=False, has_parts=True),
            Stack(group="OUT", prefixes=("output_blocks.",), count=3 * levels, has_parts=True),
        ),
        ends={"time_embed.": ("TIME", ""), "label_emb.": ("LABEL", ""), "out.": ("FINAL", "")},
        layers=UNET,
        rest={**_TIME, **({"LABEL": "Size embedding"} if has_vector else {}), "FINAL": _LAST},
        encoders=encoders,
        prefixes=("model.diffusion_model.", "unet."),
    )


_STREAMS = {"image": "Picture", "text": "Text"}
_SD3 = NetworkBlocks(
    family="sd3",
    stacks=(Stack(group="J", prefixes=("joint_blocks.",), count=24),),
    ends={
        "x_embedder.": ("IMG_IN", "image"),
        "pos_embed": ("POS", "image"),
        "context_embedder.": ("TXT_IN", "text"),
        "y_embedder.": ("VECTOR", "text"),
        "t_embedder.": ("TIME", ""),
        "final_layer.": ("FINAL", "image"),
    },
    layers=SD3,
    rest={"IMG_IN": _LATENTS_IN, "POS": "Positions", "TXT_IN": _TEXT_IN, "VECTOR": "Summary of the text", **_TIME,
          "FINAL": _LAST},
    encoders={"TE1": _CLIP_L, "TE2": _CLIP_G, "T5": "Text encoder (T5)"},
    streams=_STREAMS,
)  # fmt: skip
_FLUX = NetworkBlocks(
    family="flux",
    stacks=(
        Stack(group="D", prefixes=("double_blocks.",), count=19),
        Stack(group="S", prefixes=("single_blocks.",), count=38),
    ),
    ends={
        "img_in.": ("IMG_IN", "image"),
        "txt_in.": ("TXT_IN", "text"),
        "vector_in.": ("VECTOR", "text"),
        "time_in.": ("TIME", ""),
        "guidance_in.": ("GUIDANCE", ""),
        "final_layer.": ("FINAL", "image"),
    },
    layers=FLUX,
    rest={"IMG_IN": _LATENTS_IN, "TXT_IN": _TEXT_IN, "VECTOR": "Summary of the text", **_TIME,
          "GUIDANCE": "Guidance", "FINAL": _LAST},
    encoders={"TE1": _CLIP_L, "T5": "Text encoder (T5)"},
    streams=_STREAMS,
)  # fmt: skip
_PIXART = NetworkBlocks(
    family="pixart",
    stacks=(Stack(group="B", prefixes=("blocks.", "transformer_blocks."), count=28),),
    ends={
        "x_embedder.": ("IMG_IN", ""),
        "pos_embed.proj.": ("IMG_IN", ""),  # diffusers' name of it
        "pos_embed": ("POS", ""),
        "y_embedder.": ("TXT_IN", ""),
        "caption_projection.": ("TXT_IN", ""),
        "csize_embedder.": ("LABEL", ""),
        "ar_embedder.": ("LABEL", ""),
        "adaln_single.emb.resolution_embedder.": ("LABEL", ""),
        "adaln_single.emb.aspect_ratio_embedder.": ("LABEL", ""),
        "t_embedder.": ("TIME", ""),
        "t_block.": ("TIME", ""),
        "adaln_single.": ("TIME", ""),
        "final_layer.": ("FINAL", ""),
        "proj_out.": ("FINAL", ""),
        "scale_shift_table": ("FINAL", ""),
    },
    layers=PIXART,
    rest={"IMG_IN": _LATENTS_IN, "POS": "Positions", "TXT_IN": _TEXT_IN, **_TIME, "LABEL": "Size embedding",
          "FINAL": _LAST},
    encoders={"T5": "Text encoder (T5)"},
)  # fmt: skip

NETWORKS: Mapping[str, NetworkBlocks] = {
    network.family: network
    for network in (
        _unet("sd1", 4, {"TE1": _CLIP_L}, has_vector=False),
        _unet("sd2", 4, {"TE1": "Text encoder (CLIP-H)"}, has_vector=False),
        _unet("sdxl", 3, {"TE1": _CLIP_L, "TE2": _CLIP_G}, has_vector=True),
        _unet("sdxl-refiner", 4, {"TE1": _CLIP_G}, has_vector=True),
        _SD3,
        _FLUX,
        _PIXART,
    )
}
