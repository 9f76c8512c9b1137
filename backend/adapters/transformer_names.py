"""The modules of SD3's and FLUX's transformers in their makers' layout, and what adapters call them.

diffusers splits what these fuse: its to_q, to_k, to_v (and proj_mlp) are rows of one weight here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from backend.adapters.target import Named, Target, module_target
from backend.adapters.unet_names import flat, modules_behind
from backend.weights.source import TensorSpec

_EMBEDDERS = ("linear_1", "linear_2")
_FLUX_ENDS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    **{
        f"{ours}.{layer}": f"time_text_embed.{theirs}.{linear}"
        for ours, theirs in (
            ("time_in", "timestep_embedder"),
            ("vector_in", "text_embedder"),
            ("guidance_in", "guidance_embedder"),
        )
        for layer, linear in zip(("in_layer", "out_layer"), _EMBEDDERS, strict=True)
    },
}
_SD3_ENDS = {
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    **{
        f"{ours}.mlp.{layer}": f"time_text_embed.{theirs}.{linear}"
        for ours, theirs in (("t_embedder", "timestep_embedder"), ("y_embedder", "text_embedder"))
        for layer, linear in zip(("0", "2"), _EMBEDDERS, strict=True)
    },
}
_IMAGE_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_TEXT_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_FLUX_DOUBLE: Mapping[str, tuple[str, ...]] = {
    "img_attn.qkv": _IMAGE_QKV,
    "txt_attn.qkv": _TEXT_QKV,
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
}
_FLUX_SINGLE: Mapping[str, tuple[str, ...]] = {
    "linear1": (*_IMAGE_QKV, "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}
_SD3_JOINT: Mapping[str, tuple[str, ...]] = {
    "x_block.attn.qkv": _IMAGE_QKV,
    "context_block.attn.qkv": _TEXT_QKV,
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block.attn.proj": ("attn.to_out.0",),
    "context_block.attn.proj": ("attn.to_add_out",),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.attn.ln_q": ("attn.norm_q",),
    "x_block.attn.ln_k": ("attn.norm_k",),
    "x_block.attn2.ln_q": ("attn2.norm_q",),
    "x_block.attn2.ln_k": ("attn2.norm_k",),
    "context_block.attn.ln_q": ("attn.norm_added_q",),
    "context_block.attn.ln_k": ("attn.norm_added_k",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
}
_BLOCK = re.compile(r"(double|single|joint)_blocks\.(\d+)\.(.+)")
_THEIR_BLOCKS = {
    "double": ("transformer_blocks", _FLUX_DOUBLE),
    "single": ("single_transformer_blocks", _FLUX_SINGLE),
    "joint": ("transformer_blocks", _SD3_JOINT),
}
# XLabs: the layer -> its name in the block's processor
_XLABS = {
    "img_attn.qkv": "qkv_lora1",
    "txt_attn.qkv": "qkv_lora2",
    "img_attn.proj": "proj_lora1",
    "txt_attn.proj": "proj_lora2",
    "linear2": "proj_lora",
}


def flux_names(specs: Mapping[str, TensorSpec], prefix: str) -> Iterator[Named]:
    yield from _names(specs, prefix, _FLUX_ENDS)
    for module in modules_behind(specs, prefix):
        found = _BLOCK.fullmatch(module)
        target = module_target(specs, prefix + module)
        if not found or target is None:
            continue
        block = f"{found[1]}_blocks.{found[2]}.processor"
        if found[3] in _XLABS:
            yield Named(target=target, kohya="", names=(f"{block}.{_XLABS[found[3]]}",))
        elif found[3] == "linear1":  # XLabs trains queries, keys and values of it, and not the feed-forward layer
            attention = _rows(target, 0, 3 * target.shape[1])
            yield Named(target=attention, kohya="", names=(f"{block}.qkv_lora",))


def sd3_names(specs: Mapping[str, TensorSpec], prefix: str) -> Iterator[Named]:
    yield from _names(specs, prefix, _SD3_ENDS)


def _names(specs: Mapping[str, TensorSpec], prefix: str, ends: Mapping[str, str]) -> Iterator[Named]:
    for module in modules_behind(specs, prefix):
        target = module_target(specs, prefix + module)
        parts = _diffusers_parts(module, ends)
        if target is None or not parts:
            continue
        target = replace(target, takes_latents=module == "img_in")
        yield Named(target=target, kohya=f"lora_unet_{flat(module)}", names=tuple(_own_names(module)))
        is_swapped = parts[0] == "norm_out.linear" or _is_last_context_norm(specs, prefix, module)
        for index, (part, rows) in enumerate(zip(parts, _part_rows(target, len(parts)), strict=True)):
            theirs = replace(target if rows is None else _rows(target, *rows), is_swapped=is_swapped)
            numbered = (f"transformer.{module}.{index}",) if rows is not None else ()  # OneTrainer's
            yield Named(target=theirs, kohya="", names=(*_diffusers_names(part), *numbered))


def _diffusers_parts(module: str, ends: Mapping[str, str]) -> tuple[str, ...]:
    if module in ends:
        return (ends[module],)
    if found := _BLOCK.fullmatch(module):
        blocks, layers = _THEIR_BLOCKS[found[1]]
        return tuple(f"{blocks}.{found[2]}.{part}" for part in layers.get(found[3], ()))
    return ()


def _own_names(module: str) -> Iterator[str]:
    yield from (f"lora_unet_{flat(module)}", f"oft_unet_{flat(module)}", module, f"diffusion_model.{module}")
    yield from (f"model.diffusion_model.{module}", f"base_model.model.{module}", f"transformer.{module}")


def _diffusers_names(part: str) -> Iterator[str]:
    yield from (part, f"transformer.{part}", f"lora_transformer_{flat(part)}", f"lycoris_{flat(part)}")
    yield from (f"base_model.model.{part}", f"transformer.base_model.model.{part}")


def _part_rows(target: Target, count: int) -> Sequence[tuple[int, int] | None]:
    """Queries, keys and values are as high as the layer is wide (one third each); what is left is the feed-forward."""
    if count == 1:
        return (None,)
    width = target.shape[0] // 3 if count == 3 else target.shape[1]
    return (*((i * width, (i + 1) * width) for i in range(3)), (3 * width, target.shape[0]))[:count]


def _rows(target: Target, first: int, end: int) -> Target:
    return replace(target, rows=(first, end), shape=(end - first, *target.shape[1:]))


def _is_last_context_norm(specs: Mapping[str, TensorSpec], prefix: str, module: str) -> bool:
    """The text stream of SD3 ends in the last block, with a norm that has nothing but scale and shift."""
    block, _, layer = module.partition(".context_block.")
    is_norm = layer == "adaLN_modulation.1"
    return is_norm and f"{prefix}{block}.context_block.attn.proj.weight" not in specs
