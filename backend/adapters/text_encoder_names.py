"""The modules of text encoders in single-file checkpoints, and what adapters call them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from backend.adapters.target import Named, Target, module_target
from backend.adapters.unet_names import flat, modules_behind
from backend.weights.source import TensorSpec


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A text encoder of a family.

    kind: as `Target.component`. prefixes: where it may stand in a checkpoint; "" for a file of its own, which is told
    from others by its `width`. kohya, dotted: how names in adapters begin, the first of them in our own files.
    """

    kind: str
    prefixes: tuple[str, ...]
    width: int
    kohya: tuple[str, ...]
    dotted: tuple[str, ...]


_CLIP_L = Encoder(
    kind="clip_l",
    prefixes=("text_encoders.clip_l.transformer.", ""),
    width=768,
    kohya=("lora_te1",),
    dotted=("text_encoder",),
)
_CLIP_G = Encoder(
    kind="clip_g",
    prefixes=("text_encoders.clip_g.transformer.", ""),
    width=1280,
    kohya=("lora_te2",),
    dotted=("text_encoder_2",),
)
_T5 = Encoder(
    kind="t5",
    prefixes=("text_encoders.t5xxl.transformer.", ""),
    width=4096,
    kohya=("lora_te3",),
    dotted=("text_encoder_3",),
)
ENCODERS: Mapping[str, tuple[Encoder, ...]] = {
    "sd1": (
        replace(_CLIP_L, prefixes=("cond_stage_model.transformer.",), kohya=("lora_te", "lora_te1")),
    ),
    "sd2": (
        Encoder(
            kind="clip_h",
            prefixes=("cond_stage_model.model.",),
            width=1024,
            kohya=("lora_te", "lora_te1"),
            dotted=("text_encoder",),
        ),
    ),
    "sdxl": (
        replace(_CLIP_L, prefixes=("conditioner.embedders.0.transformer.",)),
        replace(_CLIP_G, prefixes=("conditioner.embedders.1.model.",)),
    ),
    "sdxl-refiner": (
        replace(
            _CLIP_G,
            prefixes=("conditioner.embedders.0.model.",),
            kohya=("lora_te2", "lora_te1", "lora_te"),
            dotted=("text_encoder_2", "text_encoder"),
        ),
    ),
    "sd3": (_CLIP_L, _CLIP_G, _T5),
    # kohya's trainer counts the T5 of FLUX as the third encoder, OneTrainer as the second
    "flux": (_CLIP_L, replace(_T5, kohya=("lora_te3", "lora_te2"), dotted=("text_encoder_2",))),
}  # fmt: skip
_OPEN_CLIP_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_OPEN_CLIP = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OPEN_CLIP_ENDS = {
    "token_embedding": "text_model.embeddings.token_embedding",
    "ln_final": "text_model.final_layer_norm",
}
_PROJECTIONS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def text_encoder_names(specs: Mapping[str, TensorSpec], encoder: Encoder) -> Iterator[Named]:
    """None where the model does not hold this encoder."""
    for prefix in encoder.prefixes:
        for path, target in _targets(specs, prefix, encoder):
            kohya = f"{encoder.kohya[0]}_{flat(path)}"
            yield Named(target=target, kohya=kohya, names=tuple(_names(path, target, encoder)))


def _targets(specs: Mapping[str, TensorSpec], prefix: str, encoder: Encoder) -> Iterator[tuple[str, Target]]:
    """Paths as the transformers library has them."""
    match encoder.kind:
        case _ if f"{prefix}transformer.resblocks.0.ln_1.weight" in specs:
            yield from _open_clip_targets(specs, prefix, encoder.kind)
        case "t5" if f"{prefix}encoder.block.0.layer.0.SelfAttention.q.weight" in specs:
            yield from _plain_targets(specs, prefix, encoder.kind, ("encoder.", "shared"))
        case "clip_l" | "clip_g" | "clip_h" if _width(specs, prefix) == encoder.width or prefix:
            yield from _plain_targets(specs, prefix, encoder.kind, ("text_model.", "text_projection"))
            for path, target in _plain_targets(specs, prefix, encoder.kind, ("encoder.layers.", "final_layer_norm")):
                yield f"text_model.{path}", target  # checkpoints of before transformers 4.0 have no text_model
        case _:
            return


def _width(specs: Mapping[str, TensorSpec], prefix: str) -> int:
    norm = f"{prefix}text_model.final_layer_norm.weight"
    return specs[norm].shape[0] if norm in specs else 0


def _plain_targets(
    specs: Mapping[str, TensorSpec], prefix: str, kind: str, starts: tuple[str, ...]
) -> Iterator[tuple[str, Target]]:
    for module in modules_behind(specs, prefix):
        target = module_target(specs, prefix + module, component=kind) if module.startswith(starts) else None
        if target is not None:
            yield module, target


def _open_clip_targets(specs: Mapping[str, TensorSpec], prefix: str, kind: str) -> Iterator[tuple[str, Target]]:
    for module in modules_behind(specs, prefix):
        found = _OPEN_CLIP_LAYER.fullmatch(module)
        path = (
            f"text_model.encoder.layers.{found[1]}.{_OPEN_CLIP[found[2]]}"
            if found and found[2] in _OPEN_CLIP
            else _OPEN_CLIP_ENDS.get(module)
        )
        target = module_target(specs, prefix + module, component=kind)
        if path is not None and target is not None:
            yield path, target
    for key in specs:
        if key.startswith(prefix) and key.endswith(".attn.in_proj_weight"):
            yield from _attention_parts(specs, key, key.removeprefix(prefix).split(".")[2], kind)
    projection = f"{prefix}text_projection"
    if projection in specs:
        shape = specs[projection].shape[::-1]
        yield "text_projection", Target(weight=projection, shape=shape, component=kind, is_transposed=True)


def _attention_parts(specs: Mapping[str, TensorSpec], key: str, layer: str, kind: str) -> Iterator[tuple[str, Target]]:
    width = specs[key].shape[1]
    bias = key.removesuffix("weight") + "bias"
    for index, part in enumerate(("q_proj", "k_proj", "v_proj")):
        yield (
            f"text_model.encoder.layers.{layer}.self_attn.{part}",
            Target(
                weight=key,
                shape=(width, width),
                component=kind,
                bias=bias if bias in specs else "",
                rows=(index * width, (index + 1) * width),
            ),
        )


def _names(path: str, target: Target, encoder: Encoder) -> Iterator[str]:
    short = path.removeprefix("text_model.")  # transformers 5 has no text_model
    yield from (f"{start}_{flat(name)}" for start in encoder.kohya for name in dict.fromkeys((path, short)))
    module, _, last = path.rpartition(".")
    old = f"{module}.{_PROJECTIONS[last]}" if module.endswith("self_attn") and last in _PROJECTIONS else path
    for start in encoder.dotted:
        for name in dict.fromkeys((path, short)):
            yield from (f"{start}.{name}", f"{start}.base_model.model.{name}")
        if old != path:
            yield f"{start}.{old}"
    yield f"text_encoders.{'t5xxl' if encoder.kind == 't5' else encoder.kind}.transformer.{path}"
    whole = target.weight.rpartition(".")[0]
    if target.rows is None and whole:
        yield whole
