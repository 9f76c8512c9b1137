"""Text encoders in files of any usual layout, each as a source under the names of its network (backend/nn)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from backend.weights.source import WeightSource
from backend.weights.views import View, Viewed

CLIP_L, CLIP_H, CLIP_G, T5 = "clip_l", "clip_h", "clip_g", "t5"

TOKENS = "embeddings.token_embedding.weight"
PROJECTION = "text_projection.weight"

_KIND_OF_WIDTH = {768: CLIP_L, 1024: CLIP_H, 1280: CLIP_G}


@dataclass(frozen=True)
class _Slot:
    """A place inside of checkpoints, and which CLIP it holds under transformers' and under OpenCLIP's names.

    The widths of published encoders say more than their place; narrow ones only have their place.
    """

    prefix: str
    kind: str
    open_clip_kind: str


_SLOTS = (
    _Slot("cond_stage_model.", CLIP_L, CLIP_H),  # SD 1.x, SD 2.x
    _Slot("conditioner.embedders.0.", CLIP_L, CLIP_G),  # SDXL, its refiner
    _Slot("conditioner.embedders.1.", CLIP_G, CLIP_G),
    _Slot("text_encoders.clip_l.", CLIP_L, CLIP_L),  # ComfyUI's names: SD 3, FLUX.1 ...
    _Slot("text_encoders.clip_g.", CLIP_G, CLIP_G),
    _Slot("text_encoders.clip_h.", CLIP_H, CLIP_H),
)
_T5_PREFIXES = ("text_encoders.t5xxl.", "text_encoders.t5.")

# transformers: in its fifth series, in older ones, and inside of LDM checkpoints.
_TRANSFORMERS = ("transformer.text_model.", "text_model.", "transformer.", "")
_OPEN_CLIP = ("model.", "transformer.", "")
_NETWORK_PARTS = ("embeddings.", "encoder.", "final_layer_norm.")
_OPEN_CLIP_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_OPEN_CLIP_NAMES = {
    "token_embedding.weight": TOKENS,
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPEN_CLIP_BLOCK_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_LLAMA_CPP_BLOCK = re.compile(r"enc\.blk\.(\d+)\.(\w+)\.weight")
_LLAMA_CPP_NAMES = {
    "token_embd.weight": "shared.weight",
    "enc.output_norm.weight": "encoder.final_layer_norm.weight",
}
_LLAMA_CPP_BLOCK_PARTS = {
    "attn_q": "layer.0.SelfAttention.q",
    "attn_k": "layer.0.SelfAttention.k",
    "attn_v": "layer.0.SelfAttention.v",
    "attn_o": "layer.0.SelfAttention.o",
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "attn_norm": "layer.0.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
    "ffn_norm": "layer.1.layer_norm",
}


def encoders_in(source: WeightSource) -> Mapping[str, WeightSource]:
    """Every text encoder that a checkpoint embeds, or the one that a file of its own holds, by kind."""
    found: dict[str, WeightSource] = {}
    for slot in _SLOTS:
        clip = clip_in(source, slot.prefix)
        if clip is not None:
            has_open_clip_names = _open_clip_base(source, slot.prefix) is not None
            in_this_slot = slot.open_clip_kind if has_open_clip_names else slot.kind
            found.setdefault(_KIND_OF_WIDTH.get(_width(clip), in_this_slot), clip)
    for prefix in _T5_PREFIXES:
        t5 = t5_in(source, prefix)
        if t5 is not None:
            found.setdefault(T5, t5)
    kind = kind_of_encoder(source)
    own = clip_in(source, "") or t5_in(source, "")
    if kind is not None and own is not None:
        found.setdefault(kind, own)
    return found


def chosen_encoder(kind: str, *, checkpoint: WeightSource, separate: Mapping[str, WeightSource]) -> WeightSource | None:
    """The encoder of a kind from a file of its own where there is one, else from the checkpoint, else None."""
    own = separate.get(kind)
    if own is None:
        return encoders_in(checkpoint).get(kind)
    return t5_in(own, "") if kind == T5 else clip_in(own, "")


def kind_of_encoder(source: WeightSource) -> str | None:
    """What a file that holds a text encoder of its own is ("clip_l", "clip_h", "clip_g", "t5"), or None."""
    if t5_in(source, "") is not None:
        return T5
    clip = clip_in(source, "")
    return None if clip is None else _KIND_OF_WIDTH.get(_width(clip))


def clip_in(source: WeightSource, prefix: str) -> WeightSource | None:
    """The CLIP text encoder behind `prefix`, or None. Pictures' halves, position ids and the like are left out.

    A projection comes along where the file has one.
    """
    keys = frozenset(source.keys())
    base = next((prefix + naming for naming in _TRANSFORMERS if prefix + naming + TOKENS in keys), None)
    if base is not None:
        views = {
            key[len(base) :]: View(key)
            for key in source.keys()
            if key.startswith(tuple(base + part for part in _NETWORK_PARTS)) and not key.endswith("position_ids")
        }
        return Viewed(source, views | _projection(keys, (prefix + "transformer.", prefix, base)))
    base = _open_clip_base(source, prefix)
    return None if base is None else Viewed(source, _open_clip_views(source, base) | _projection(keys, (base,)))


def t5_in(source: WeightSource, prefix: str) -> WeightSource | None:
    """The encoder of a T5 behind `prefix`, or None. Its decoder and everything else in the file is left out."""
    keys = frozenset(source.keys())
    for base in (prefix + "transformer.", prefix):
        if base + "encoder.block.0.layer.0.SelfAttention.q.weight" in keys:
            return Viewed(source, _t5_views(source, base))
        if base + "enc.blk.0.attn_q.weight" in keys:
            return Viewed(source, _llama_cpp_views(source, base))
    return None


def _width(clip: WeightSource) -> int:
    return clip.spec(TOKENS).shape[-1] if clip.spec(TOKENS).shape else 0


def _projection(keys: frozenset[str], bases: tuple[str, ...]) -> dict[str, View]:
    """The projection of the pooled state: a layer, or a matrix that is multiplied from the right."""
    for base in bases:
        if base + PROJECTION in keys:
            return {PROJECTION: View(base + PROJECTION)}
        if base + "text_projection" in keys:
            return {PROJECTION: View(base + "text_projection", transposed=True)}
    return {}


def _open_clip_base(source: WeightSource, prefix: str) -> str | None:
    keys = frozenset(source.keys())
    first = "transformer.resblocks.0.attn.in_proj_weight"
    return next((prefix + naming for naming in _OPEN_CLIP if prefix + naming + first in keys), None)


def _open_clip_views(source: WeightSource, base: str) -> dict[str, View]:
    views: dict[str, View] = {}
    for key in source.keys():
        name = key.removeprefix(base)
        block = _OPEN_CLIP_BLOCK.fullmatch(name) if key.startswith(base) else None
        if block is not None:
            views |= _open_clip_block_views(source, key, f"encoder.layers.{block[1]}.", block[2])
        elif key.startswith(base) and name in _OPEN_CLIP_NAMES:
            views[_OPEN_CLIP_NAMES[name]] = View(key)
    return views


def _open_clip_block_views(source: WeightSource, key: str, layer: str, name: str) -> dict[str, View]:
    """Queries, keys and values are the three thirds of one matrix. What is not known stays, to be refused."""
    part, _, parameter = name.rpartition(".")
    shape = source.spec(key).shape
    if name.startswith("attn.in_proj_") and shape and shape[0] % 3 == 0:
        parameter = name.removeprefix("attn.in_proj_")  # "weight" or "bias"
        third = shape[0] // 3
        return {
            f"{layer}self_attn.{projection}_proj.{parameter}": View(key, rows=(index * third, (index + 1) * third))
            for index, projection in enumerate("qkv")
        }
    return {f"{layer}{_OPEN_CLIP_BLOCK_PARTS.get(part, part)}.{parameter}": View(key)}


def _t5_views(source: WeightSource, base: str) -> dict[str, View]:
    views = {
        key.removeprefix(base): View(key)
        for key in source.keys()
        if key.startswith((base + "shared.", base + "encoder."))
    }
    tokens = views.pop("encoder.embed_tokens.weight", None)  # the same table once more, or the only one
    return views if tokens is None else {"shared.weight": tokens} | views


def _llama_cpp_views(source: WeightSource, base: str) -> dict[str, View]:
    views: dict[str, View] = {}
    for key in source.keys():
        name = key.removeprefix(base)
        block = _LLAMA_CPP_BLOCK.fullmatch(name) if key.startswith(base) else None
        if block is not None:
            part = _LLAMA_CPP_BLOCK_PARTS.get(block[2], block[2])
            views[f"encoder.block.{block[1]}.{part}.weight"] = View(key)
        elif key.startswith(base) and name in _LLAMA_CPP_NAMES:
            views[_LLAMA_CPP_NAMES[name]] = View(key)
    return views
