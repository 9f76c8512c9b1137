"""Kinds of weight files that this version knows by name but does not run, so that it can say what they are."""

from __future__ import annotations

from collections.abc import Callable

from backend.families.family import Family
from backend.weights.source import WeightSource

_UNET = "model.diffusion_model."
_LATER = "this version runs SD 1.x checkpoints only; keep the file, a later version will run it."


def has_key(*names: str) -> Callable[[WeightSource], bool]:
    """Recognise a source that has any of `names`, with or without the usual prefix of a diffusion model."""
    wanted = {f"{prefix}{name}" for name in names for prefix in ("", _UNET)}
    return lambda source: not wanted.isdisjoint(source.keys())


def has_part(*parts: str) -> Callable[[WeightSource], bool]:
    """Recognise a source of which any key contains one of `parts`."""
    return lambda source: any(part in key for key in source.keys() for part in parts)


def context_width(source: WeightSource) -> int | None:
    """Width of the text context of a U-Net in LDM layout, or None when there is no such U-Net."""
    for key in source.keys():
        if key.startswith(_UNET) and key.endswith("attn2.to_k.weight"):
            return source.spec(key).shape[1]
    return None


def _is_autoencoder(source: WeightSource) -> bool:
    keys = frozenset(source.keys())
    bare = "decoder.conv_in.weight" in keys
    return bare or ("first_stage_model.decoder.conv_in.weight" in keys and context_width(source) is None)


def _known(name: str, label: str, recognise: Callable[[WeightSource], bool], advice: str = _LATER) -> Family:
    return Family(name=name, label=label, recognise=recognise, advice=advice)


# Order matters where one kind contains the keys of another: the first that recognises a file names it.
KNOWN = (
    _known(
        "lora",
        "LoRA",
        has_part(".lora_down.weight", ".lora_A.", ".lora_up.weight", ".hada_w1_a", ".lokr_w1", ".oft_blocks"),
        "it changes a checkpoint and is none itself; LoRA loading comes with a later version.",
    ),
    _known("controlnet", "ControlNet", has_part("control_model.", "controlnet_blocks.", "controlnet_cond_embedding.")),
    _known(
        "embedding",
        "textual inversion",
        has_key("emb_params", "clip_l", "clip_g"),
        "it is a word for prompts, not a checkpoint; a later version reads it.",
    ),
    _known("hunyuan-dit", "HunyuanDiT", has_key("mlp_t5.0.weight"), "this version has no HunyuanDiT."),
    _known(
        "hunyuan-video",
        "HunyuanVideo",
        has_key("double_blocks.0.img_attn_qkv.weight"),
        "it makes videos; this version makes pictures.",
    ),
    _known(
        "chroma",
        "Chroma",
        has_key("distilled_guidance_layer.in_proj.weight"),
        "this version runs FLUX.1 [dev] and [schnell], from which it was made, but not Chroma.",
    ),
    _known(
        "flux2",
        "FLUX.2",
        has_key("double_stream_modulation_img.lin.weight"),
        "this version runs FLUX.1 and not FLUX.2.",
    ),
    _known(
        "diffusers-transformer",
        "diffusers transformer",
        has_key("transformer_blocks.0.attn.add_k_proj.weight"),
        "it is one part of a diffusers folder; use the model's single-file checkpoint.",
    ),
    _known(
        "diffusers-unet",
        "diffusers U-Net",
        has_key("down_blocks.0.resnets.0.conv1.weight"),
        "it is one part of a diffusers folder; use the model's single-file checkpoint.",
    ),
    _known(
        "text-encoder",
        "CLIP text encoder",
        has_key("text_model.embeddings.token_embedding.weight"),
        "it is one part of a model; use the single-file checkpoint.",
    ),
    _known(
        "upscaler",
        "ESRGAN upscaler",
        has_key("conv_first.weight", "model.0.weight"),
        "it enlarges pictures; a later version uses it.",
    ),
    _known("vae", "autoencoder (VAE)", _is_autoencoder, "choose it as the VAE of a checkpoint; move it to models/vae."),
)
