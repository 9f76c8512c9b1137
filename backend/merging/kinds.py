"""Kinds of layers inside of the blocks, and by what part of a weight's name each is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerName:
    """A part of names, as they stand in checkpoints, and which kind and stream the weights belong to that have it.

    A kind has either streams or none, so that kind and stream tell all of them apart.
    Names have a point before and behind when they are compared. is_in_transformer: whether it stands behind
    `transformer_blocks.<number>`.
    """

    part: str
    kind: str
    stream: str = ""
    is_in_transformer: bool = False


OTHER = "other"


def layer_in(name: str, layers: Sequence[LayerName]) -> LayerName | None:
    """The first of `layers` whose part stands in `name`, or None."""
    dotted = f".{name}."
    return next((layer for layer in layers if layer.part in dotted), None)


def fits(wanted: str, name: str) -> bool:
    """Whether `wanted` is `name`, or the beginning of it up to a point ("norm" of "norm.norm1")."""
    return name == wanted or name.startswith(f"{wanted}.")


def _attention(part: str, kind: str) -> tuple[LayerName, ...]:
    """Of diffusers' and LDM's attention, with a matrix for each of the four."""
    projections = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "out"}
    return tuple(
        LayerName(f".{part}.{theirs}.", f"{kind}.{ours}", is_in_transformer=True)
        for theirs, ours in projections.items()
    )


_TRANSFORMER = (
    *_attention("attn1", "self_attention"),
    *_attention("attn2", "cross_attention"),
    LayerName(".ff.net.0.proj.", "feed_forward.in", is_in_transformer=True),
    LayerName(".ff.net.2.", "feed_forward.out", is_in_transformer=True),
    *(LayerName(f".{name}.", f"norm.{name}", is_in_transformer=True) for name in ("norm1", "norm2", "norm3")),
)
UNET = (
    *_TRANSFORMER,
    LayerName(".in_layers.0.", "norm.in_layers"),
    LayerName(".in_layers.2.", "resblock.in_layers"),
    LayerName(".emb_layers.1.", "resblock.emb_layers"),
    LayerName(".out_layers.0.", "norm.out_layers"),
    LayerName(".out_layers.3.", "resblock.out_layers"),
    LayerName(".skip_connection.", "resblock.skip_connection"),
    LayerName(".norm.", "norm.norm"),
    LayerName(".proj_in.", "projection.in"),
    LayerName(".proj_out.", "projection.out"),
    LayerName(".op.", "resample.down"),
    LayerName(".conv.", "resample.up"),
)


def _joint(block: str, stream: str) -> tuple[LayerName, ...]:
    return (
        LayerName(f".{block}.attn.qkv.", "self_attention.qkv", stream),
        LayerName(f".{block}.attn.proj.", "self_attention.out", stream),
        LayerName(f".{block}.attn.ln_q.", "norm.query", stream),
        LayerName(f".{block}.attn.ln_k.", "norm.key", stream),
        LayerName(f".{block}.attn2.qkv.", "image_attention.qkv", stream),
        LayerName(f".{block}.attn2.proj.", "image_attention.out", stream),
        LayerName(f".{block}.attn2.ln_q.", "norm.image_query", stream),
        LayerName(f".{block}.attn2.ln_k.", "norm.image_key", stream),
        LayerName(f".{block}.mlp.fc1.", "feed_forward.in", stream),
        LayerName(f".{block}.mlp.fc2.", "feed_forward.out", stream),
        LayerName(f".{block}.adaLN_modulation.1.", "modulation", stream),
    )


SD3 = (*_joint("x_block", "image"), *_joint("context_block", "text"))


def _double(prefix: str, stream: str) -> tuple[LayerName, ...]:
    return (
        LayerName(f".{prefix}_attn.qkv.", "self_attention.qkv", stream),
        LayerName(f".{prefix}_attn.proj.", "self_attention.out", stream),
        LayerName(f".{prefix}_attn.norm.query_norm.", "norm.query", stream),
        LayerName(f".{prefix}_attn.norm.key_norm.", "norm.key", stream),
        LayerName(f".{prefix}_mlp.0.", "feed_forward.in", stream),
        LayerName(f".{prefix}_mlp.2.", "feed_forward.out", stream),
        LayerName(f".{prefix}_mod.lin.", "modulation.double", stream),
    )


FLUX = (
    *_double("img", "image"),
    *_double("txt", "text"),
    LayerName(".linear1.", "attention_and_feed_forward.in"),
    LayerName(".linear2.", "attention_and_feed_forward.out"),
    LayerName(".norm.query_norm.", "norm.single_query"),
    LayerName(".norm.key_norm.", "norm.single_key"),
    LayerName(".modulation.lin.", "modulation.single"),
)
PIXART = (
    *_TRANSFORMER,
    LayerName(".attn.qkv.", "self_attention.qkv"),
    LayerName(".attn.proj.", "self_attention.out"),
    LayerName(".cross_attn.q_linear.", "cross_attention.q"),
    LayerName(".cross_attn.kv_linear.", "cross_attention.kv"),
    LayerName(".cross_attn.proj.", "cross_attention.out"),
    LayerName(".mlp.fc1.", "feed_forward.in"),
    LayerName(".mlp.fc2.", "feed_forward.out"),
    LayerName(".scale_shift_table.", "modulation"),
)
LAYERS: Mapping[str, tuple[LayerName, ...]] = {
    "sd1": UNET,
    "sd2": UNET,
    "sdxl": UNET,
    "sdxl-refiner": UNET,
    "sd3": SD3,
    "flux": FLUX,
    "pixart": PIXART,
}

_LABELS = {
    "resblock": "Residual blocks",
    "self_attention": "Self-attention",
    "cross_attention": "Cross-attention",
    "image_attention": "Self-attention of the picture alone",
    "feed_forward": "Feed-forward",
    "attention_and_feed_forward": "Attention and feed-forward in one",
    "norm": "Norms",
    "projection": "Projections around transformers",
    "resample": "Down- and up-sampling",
    "modulation": "Modulation by time and text",
    OTHER: "Everything else",
}
_PART_LABELS = {
    "q": "queries", "k": "keys", "v": "values", "out": "out", "in": "in", "qkv": "queries, keys and values",
    "kv": "keys and values", "down": "down", "up": "up", "in_layers": "in_layers", "out_layers": "out_layers",
    "emb_layers": "of the time", "skip_connection": "skip connection", "norm": "before transformers",
    "norm1": "before self-attention", "norm2": "before cross-attention", "norm3": "before feed-forward",
    "query": "of queries", "key": "of keys", "image_query": "of the picture's own queries",
    "image_key": "of the picture's own keys", "single_query": "of queries in single blocks",
    "single_key": "of keys in single blocks", "double": "double blocks", "single": "single blocks",
}  # fmt: skip


def kind_labels(layers: Sequence[LayerName]) -> dict[str, str]:
    """Every kind that `layers` tell apart, with and without its part, and what to call it."""
    present = {layer.kind for layer in layers}
    labels: dict[str, str] = {}
    for kind, label in _LABELS.items():
        parts = [found for found in dict.fromkeys(layer.kind for layer in layers) if found.startswith(f"{kind}.")]
        if parts or kind in present or kind == OTHER:
            labels[kind] = label
        labels |= {part: f"{label}: {_PART_LABELS[part.removeprefix(f'{kind}.')]}" for part in parts}
    return labels
