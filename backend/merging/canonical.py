"""A model under the names that single-file checkpoints of its family have, whatever layout its file has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from backend.families.autoencoder_files import autoencoder_in
from backend.families.family import Family
from backend.families.file_facts import MARKERS
from backend.families.transformer_files import transformer_in, transformer_prefix
from backend.families.unet_files import unet_in, unet_prefix
from backend.merging.operands import Stacked, StoredWeight, Weight
from backend.text.encoder_layouts import CLIP_G, CLIP_H, CLIP_L, PROJECTION, T5, TOKENS, encoders_in
from backend.weights.source import InMemory, Renamed, WeightSource
from backend.weights.views import View, Viewed

NETWORK = "model.diffusion_model."
POSITION_IDS = "position_ids"
AVERAGES = "model_ema."

_AUTOENCODERS = ("first_stage_model.", "vae.")
_TEXTS = ("cond_stage_model.", "conditioner.embedders.", "text_encoders.")
_VAE_OF = {"flux": "vae.", "pixart": "vae."}  # ComfyUI's name; "first_stage_model." elsewhere
_ENCODER_PREFIXES = (
    "cond_stage_model.",
    "conditioner.embedders.0.",
    "conditioner.embedders.1.",
    "text_encoders.clip_l.",
    "text_encoders.clip_g.",
    "text_encoders.t5xxl.",
    *_TEXTS,
)
_TRANSFORMERS = {
    "sd3": "joint_blocks.0.x_block.attn.qkv.weight",
    "flux": "double_blocks.0.img_attn.qkv.weight",
    "pixart": "t_block.1.weight",
}


@dataclass(frozen=True, kw_only=True)
class _Slot:
    """Where the checkpoints of a family have a text encoder, and whether under OpenCLIP's names there."""

    prefix: str
    is_open_clip: bool = False


_COMFY_SLOTS = {
    CLIP_L: _Slot(prefix="text_encoders.clip_l."),
    CLIP_G: _Slot(prefix="text_encoders.clip_g."),
    T5: _Slot(prefix="text_encoders.t5xxl."),
}
_SLOTS: Mapping[str, Mapping[str, _Slot]] = {
    "sd1": {CLIP_L: _Slot(prefix="cond_stage_model.")},
    "sd2": {CLIP_H: _Slot(prefix="cond_stage_model.", is_open_clip=True)},
    "sdxl": {
        CLIP_L: _Slot(prefix="conditioner.embedders.0."),
        CLIP_G: _Slot(prefix="conditioner.embedders.1.", is_open_clip=True),
    },
    "sdxl-refiner": {CLIP_G: _Slot(prefix="conditioner.embedders.0.", is_open_clip=True)},
}
_OPEN_CLIP_NAMES = {
    TOKENS: "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


@dataclass(frozen=True, kw_only=True)
class Canonical:
    """weights: by canonical name. notices: what had to be mended, for the user."""

    weights: Mapping[str, Weight]
    notices: tuple[str, ...] = ()


def canonical(source: WeightSource, family: Family) -> Canonical:
    """Every weight of a checkpoint. Averaged (EMA) copies are left out; position ids are as they must be.

    Raises BadCheckpoint for names that stand for the same weight.
    """
    weights = {
        **_network(source, family.name),
        **autoencoder(source, family.name),
        **_text_encoders(source, _SLOTS.get(family.name, _COMFY_SLOTS)),
        **_others(source, family.name),
    }
    notices: list[str] = []
    for key in [key for key in weights if key.endswith(POSITION_IDS)]:
        weight = weights[key]
        mended = _position_ids(weight.shape)
        if not _is_same(weight, mended):
            notices.append(
                f"{source.origin.name}: the numbers of the text encoder's positions are damaged, as older programs "
                "left them; they are put right."
            )
        weights[key] = mended
    return Canonical(weights=weights, notices=tuple(notices))


def autoencoder(source: WeightSource, family: str) -> dict[str, Weight]:
    """The autoencoder of a file of any layout under the names that the family's checkpoints have; {} for none."""
    found = autoencoder_in(source)
    return {} if found is None else _stored(found, f"{autoencoder_prefix(family)}{{}}".format)


def autoencoder_prefix(family: str) -> str:
    return _VAE_OF.get(family, _AUTOENCODERS[0])


def component(key: str) -> str:
    """The part of a model that a canonical name belongs to: what is taken over whole where a model lacks it."""
    if key.startswith(_AUTOENCODERS):
        return "VAE"
    if key.startswith(_TEXTS):
        return next(prefix for prefix in _ENCODER_PREFIXES if key.startswith(prefix))
    return "network" if key.startswith(NETWORK) else ""


def network_in(source: WeightSource, family: str) -> WeightSource:
    """The network that denoises under its maker's names. A file without one gives a source without keys."""
    if family not in _TRANSFORMERS:
        return unet_in(source)
    prefix = transformer_prefix(source, _TRANSFORMERS[family])
    return transformer_in(source, NETWORK if prefix is None else prefix)


def beside_network(source: WeightSource, family: str) -> WeightSource:
    """All of a file but the network that denoises, under the names that it has."""
    prefix = transformer_prefix(source, _TRANSFORMERS[family]) if family in _TRANSFORMERS else unet_prefix(source)
    others = (*_AUTOENCODERS, *_TEXTS, AVERAGES, *MARKERS)

    def kept(key: str) -> str | None:
        is_of_network = key.startswith(prefix) if prefix else prefix == "" and not key.startswith(others)
        return None if is_of_network else key

    return Renamed(source, kept)


def _network(source: WeightSource, family: str) -> dict[str, Weight]:
    return _stored(network_in(source, family), f"{NETWORK}{{}}".format)


def _text_encoders(source: WeightSource, slots: Mapping[str, _Slot]) -> dict[str, Weight]:
    keys = frozenset(source.keys())
    weights: dict[str, Weight] = {}
    for kind, encoder in encoders_in(source).items():
        slot = slots.get(kind)
        if slot is None:
            continue
        in_place = slot.prefix + "model."
        if kind == T5:
            weights |= _stored(encoder, f"{slot.prefix}transformer.{{}}".format)
        elif slot.is_open_clip and f"{in_place}transformer.resblocks.0.attn.in_proj_weight" in keys:
            weights |= {key: StoredWeight(source, key) for key in source.keys() if key.startswith(in_place)}
        elif slot.is_open_clip:
            weights |= dict(_open_clip(encoder, in_place))
        else:
            weights |= _stored(encoder, lambda name, slot=slot: _in_transformers_slot(slot, name))
            weights |= _kept_position_ids(source, slot)
    return weights


def _in_transformers_slot(slot: _Slot, name: str) -> str:
    return slot.prefix + ("transformer." if name == PROJECTION else "transformer.text_model.") + name


def _kept_position_ids(source: WeightSource, slot: _Slot) -> dict[str, Weight]:
    found = [key for key in source.keys() if key.startswith(slot.prefix) and key.endswith(f".{POSITION_IDS}")]
    name = f"{slot.prefix}transformer.text_model.embeddings.{POSITION_IDS}"
    return {name: StoredWeight(source, found[0])} if found else {}


def _open_clip(encoder: WeightSource, prefix: str) -> Iterator[tuple[str, Weight]]:
    """A text encoder under the names of its network as OpenCLIP has it: queries, keys and values in one matrix."""
    for name in encoder.keys():
        weight = StoredWeight(encoder, name)
        if name == PROJECTION:
            view = Viewed(encoder, {name: View(name, transposed=True)})
            yield f"{prefix}text_projection", StoredWeight(view, name)
        elif name in _OPEN_CLIP_NAMES:
            yield prefix + _OPEN_CLIP_NAMES[name], weight
        elif ".self_attn.q_proj." in name:
            start, _, parameter = name.partition(".self_attn.q_proj.")
            thirds = [StoredWeight(encoder, f"{start}.self_attn.{part}_proj.{parameter}") for part in "qkv"]
            yield f"{_block(prefix, start)}.attn.in_proj_{parameter}", Stacked(tuple(thirds))
        elif not any(f".self_attn.{part}_proj." in name for part in "kv"):
            part, _, parameter = name.rpartition(".")
            layer = next((layer for layer in _OPEN_CLIP_PARTS if part.endswith(f".{layer}")), "")
            start = part.removesuffix(f".{layer}")
            yield f"{_block(prefix, start)}.{_OPEN_CLIP_PARTS.get(layer, layer)}.{parameter}", weight


def _block(prefix: str, layer: str) -> str:
    return f"{prefix}transformer.resblocks.{layer.removeprefix('encoder.layers.')}"


def _others(source: WeightSource, family: str) -> dict[str, Weight]:
    """What belongs to none of the networks: markers, and tensors that programs leave in checkpoints."""
    known = (*_AUTOENCODERS, *_TEXTS, AVERAGES)
    is_transformer = family in _TRANSFORMERS
    prefix = transformer_prefix(source, _TRANSFORMERS[family]) if is_transformer else unet_prefix(source)
    if prefix == "":  # all that lies beside a network without a prefix is taken for a part of it
        return {key: StoredWeight(source, key) for key in source.keys() if key in MARKERS}
    starts = (*known, prefix) if prefix else known
    return {key: StoredWeight(source, key) for key in source.keys() if not key.startswith(starts)}


def _stored(source: WeightSource, name: Callable[[str], str]) -> dict[str, Weight]:
    return {name(key): StoredWeight(source, key) for key in source.keys()}


def _position_ids(shape: tuple[int, ...]) -> StoredWeight:
    """Numbered from 0, as they are read, in the type that programs expect."""
    count = shape[-1] if shape else 0
    return StoredWeight(InMemory({POSITION_IDS: torch.arange(count).view(shape)}), POSITION_IDS)


def _is_same(weight: Weight, mended: StoredWeight) -> bool:
    found = [source.read(key) for source, key in weight.sources()]
    right = mended.source.read(mended.key)
    return len(found) == 1 and found[0].dtype == right.dtype and bool(torch.equal(found[0], right))
