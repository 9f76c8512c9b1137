"""Kinds of weight files that are known by name but not run, so that a user is told what a file is and what to do."""

from __future__ import annotations

from collections.abc import Callable

from backend.families.family import Family
from backend.families.sdxl import is_kolors
from backend.families.unet_files import unet_prefix, unet_traits
from backend.text.encoder_layouts import kind_of_encoder
from backend.weights.source import WeightSource

_Recognise = Callable[[WeightSource], bool]

# In front of the names of a network's weights: LDM's, ComfyUI's, diffusers', others', none.
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "model.", "unet.", "")

_CONTEXTS = (768, 1024, 1280)  # widths of the tokens of CLIP-L, -H and -G

_OTHER_PROGRAM = (
    "Emulsion has no network for it. Use it in a program that has, or through the diffusers bridge extension where "
    "that is installed; here, choose a checkpoint of Stable Diffusion, SDXL, SD 3.5, FLUX.1 or PixArt."
)
_VIDEO = "it makes videos, which Emulsion does not. Use it in a program for videos; here, choose a model for pictures."
_LATER = "it changes what a checkpoint makes and is none itself; this version does not use it yet. Keep it, {}."


def has_keys(*names: str) -> _Recognise:
    """Recognise a source that has all of `names` behind one of the usual prefixes of a network."""

    def recognise(source: WeightSource) -> bool:
        keys = frozenset(source.keys())
        return any(all(prefix + name in keys for name in names) for prefix in _PREFIXES)

    return recognise


def has_part(*parts: str) -> _Recognise:
    """Recognise a source of which any key contains one of `parts`."""
    return lambda source: any(part in key for key in source.keys() for part in parts)


def any_of(*recognisers: _Recognise) -> _Recognise:
    return lambda source: any(recognise(source) for recognise in recognisers)


def _is_kolors(source: WeightSource) -> bool:
    traits = unet_traits(source)
    return traits is not None and is_kolors(source, traits)


def _is_sd2_unclip(source: WeightSource) -> bool:
    """An SD 2.x U-Net with an extra vector, which is that of a picture."""
    traits = unet_traits(source)
    return traits is not None and traits.vector_width is not None and traits.context_width == 1024


def _has_in_channels(number: int) -> _Recognise:
    def recognise(source: WeightSource) -> bool:
        traits = unet_traits(source)
        return traits is not None and traits.linear_projections and traits.in_channels == number

    return recognise


def _is_lumina(source: WeightSource) -> bool:
    return has_keys("cap_embedder.1.weight")(source) or has_keys("time_caption_embed.caption_embedder.1.weight")(source)


def _is_dit(source: WeightSource) -> bool:
    return has_keys("y_embedder.embedding_table.weight")(source) or has_keys(
        "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    )(source)


def _is_embedding(source: WeightSource) -> bool:
    """One table of vectors, under any name, or one for each text encoder."""
    keys = frozenset(source.keys())
    is_table = all(0 < len(source.spec(key).shape) <= 2 and source.spec(key).shape[-1] in _CONTEXTS for key in keys)
    return is_table and (len(keys) == 1 or bool(keys & {"emb_params", "clip_l", "clip_g"}))


def _is_autoencoder(source: WeightSource) -> bool:
    keys = frozenset(source.keys())
    found = [prefix for prefix in ("", "first_stage_model.", "vae.") if f"{prefix}decoder.conv_in.weight" in keys]
    return bool(found) and unet_prefix(source) is None and not _is_video_autoencoder(source)


def _is_video_autoencoder(source: WeightSource) -> bool:
    ends = ("decoder.conv1.weight", "decoder.conv_in.weight", "decoder.conv_in.conv.weight")
    return any(key.endswith(ends) and len(source.spec(key).shape) == 5 for key in source.keys())


def _is_text_encoder(*kinds: str) -> _Recognise:
    return lambda source: kind_of_encoder(source) in kinds


def _known(name: str, label: str, recognise: _Recognise, advice: str = _OTHER_PROGRAM) -> Family:
    return Family(name=name, label=label, recognise=recognise, advice=advice)


# Order matters where one kind contains the keys of another: the first that recognises a file names it.
KNOWN = (
    _known(
        "lora",
        "LoRA",
        has_part(
            ".lora_down.weight", ".lora_A.", ".lora_up.weight", ".hada_w1_a", ".lokr_w1", ".oft_blocks", ".lora.up."
        ),
        "it changes what a checkpoint makes and is none itself. Move it to models/loras and choose it as a LoRA.",
    ),
    _known(
        "controlnet",
        "ControlNet",
        has_part("control_model.", "controlnet_blocks.", "controlnet_cond_embedding.", "controlnet_down_blocks."),
        _LATER.format("in models/controlnet"),
    ),
    _known(
        "ip-adapter",
        "IP-Adapter",
        has_part("ip_adapter.", "image_proj."),
        _LATER.format("in models/controlnet"),
    ),
    _known(
        "t2i-adapter",
        "T2I adapter",
        any_of(has_keys("body.0.block1.weight"), has_part("adapter.body.")),
        _LATER.format("in models/controlnet"),
    ),
    _known(
        "embedding",
        "textual inversion",
        _is_embedding,
        "it is a word for prompts, not a checkpoint; this version does not read it yet. Keep it, in models/embeddings.",
    ),
    _known("svd", "Stable Video Diffusion", has_part(".time_stack.", ".temporal_transformer_blocks."), _VIDEO),
    _known(
        "animatediff",
        "AnimateDiff motion module",
        has_part("motion_modules."),
        "it moves the pictures of an SD 1.x checkpoint and is none itself; Emulsion makes no videos.",
    ),
    _known("kolors", "Kolors", _is_kolors, f"it reads prompts with ChatGLM3. {_OTHER_PROGRAM}"),
    _known(
        "sd2-unclip",
        "Stable unCLIP (SD 2.1)",
        _is_sd2_unclip,
        "it makes variations of a picture, which it reads through a vision network that Emulsion does not have. Use "
        "SD 2.1 (768 or base) instead.",
    ),
    _known(
        "sd2-depth",
        "SD 2 depth",
        _has_in_channels(5),
        "it needs a depth map of a picture, from a network that Emulsion does not have. Use SD 2.0 inpainting or "
        "SD 2.1 instead.",
    ),
    _known(
        "sd-x4-upscaler",
        "SD x4 upscaler",
        _has_in_channels(7),
        "it enlarges small pictures by diffusion and makes none from text alone; this version does not use it.",
    ),
    _known(
        "stable-cascade", "Stable Cascade", any_of(has_keys("clf.1.weight"), has_keys("clip_txt_pooled_mapper.weight"))
    ),
    _known(
        "kandinsky", "Kandinsky", any_of(has_keys("add_time_condition.embed.weight"), has_part("add_time_condition."))
    ),
    _known(
        "hunyuan-dit",
        "HunyuanDiT",
        any_of(has_keys("mlp_t5.0.weight"), has_keys("text_embedder.linear_1.weight", "text_embedding_padding")),
    ),
    _known(
        "aura-flow",
        "AuraFlow",
        any_of(has_keys("double_layers.0.attn.w1q.weight"), has_keys("joint_transformer_blocks.0.attn.to_q.weight")),
    ),
    _known("lumina", "Lumina or Z-Image", _is_lumina),
    _known(
        "dit",
        "class-conditional DiT or SiT",
        _is_dit,
        f"it makes pictures of numbered classes, not of texts. {_OTHER_PROGRAM}",
    ),
    _known("chroma", "Chroma", has_part("distilled_guidance_layer.")),
    _known(
        "flux2",
        "FLUX.2",
        any_of(
            has_keys("double_stream_modulation_img.lin.weight"), has_keys("double_stream_modulation_img.linear.weight")
        ),
    ),
    _known("qwen-image", "Qwen-Image", has_keys("transformer_blocks.0.img_mod.1.weight", "txt_norm.weight")),
    _known("sana", "Sana", has_keys("caption_norm.weight", "transformer_blocks.0.ff.conv_inverted.weight")),
    _known(
        "wan",
        "Wan video",
        any_of(
            has_keys("head.modulation"),
            has_keys("condition_embedder.text_embedder.linear_1.weight", "blocks.0.attn2.to_k.weight"),
        ),
        _VIDEO,
    ),
    _known(
        "hunyuan-video",
        "Hunyuan video",
        any_of(
            has_keys("txt_in.individual_token_refiner.blocks.0.norm1.weight"),
            has_keys("context_embedder.token_refiner.refiner_blocks.0.norm1.weight"),
        ),
        _VIDEO,
    ),
    _known(
        "ltx-video",
        "LTX video",
        any_of(
            has_keys("patchify_proj.weight"),
            has_keys("proj_in.weight", "time_embed.emb.timestep_embedder.linear_1.weight"),
        ),
        _VIDEO,
    ),
    _known(
        "other-video",
        "video model",
        any_of(
            has_keys("patch_embed.proj.weight", "transformer_blocks.0.attn1.to_q.weight"), has_keys("t5_yproj.weight")
        ),
        _VIDEO,
    ),
    _known(
        "sd3-diffusers",
        "Stable Diffusion 3 transformer of a diffusers folder",
        has_keys("transformer_blocks.0.attn.add_q_proj.weight", "pos_embed.proj.weight"),
        "its weights have diffusers' names. Use the single file of the same model, as Stability publishes it.",
    ),
    _known(
        "flux-diffusers",
        "FLUX transformer of a diffusers folder",
        has_keys("transformer_blocks.0.attn.add_q_proj.weight", "x_embedder.weight"),
        "its weights have diffusers' names. Use the single file of the same model, as its makers publish it.",
    ),
    _known(
        "diffusers-transformer",
        "diffusers transformer",
        has_keys("transformer_blocks.0.attn.add_k_proj.weight"),
        "it is one part of a diffusers folder. Use the model's single-file checkpoint.",
    ),
    _known(
        "diffusers-unet",
        "diffusers U-Net",
        has_keys("down_blocks.0.resnets.0.conv1.weight"),
        "it is a U-Net that reads no text. Use one that does, or the model's single-file checkpoint.",
    ),
    _known(
        "vae",
        "autoencoder (VAE)",
        _is_autoencoder,
        "it is one part of a model. Move it to models/vae and choose it as the VAE of a checkpoint.",
    ),
    _known("video-vae", "autoencoder for videos", _is_video_autoencoder, _VIDEO),
    _known(
        "taesd",
        "tiny autoencoder (TAESD)",
        has_part("decoder.layers.0.weight", "taesd_decoder."),
        "it makes quick previews. Emulsion fits the colours of its previews by itself and does not need it.",
    ),
    _known(
        "text-encoder",
        "text encoder",
        _is_text_encoder("clip_l", "clip_h", "clip_g", "t5"),
        "it is one part of a model. Move it to models/text_encoders and choose it for a checkpoint that holds none.",
    ),
    _known(
        "clip-vision",
        "CLIP vision",
        has_part("vision_model.embeddings.", "visual.transformer.resblocks."),
        "it reads pictures, for IP-Adapters; this version does not use it. Keep it, in models/clip_vision.",
    ),
    _known(
        "language-model",
        "language model",
        has_part("layers.0.self_attn.q_proj.weight"),
        "it reads the prompts of other families. Emulsion's models read theirs with CLIP and T5 encoders.",
    ),
    _known(
        "upscaler",
        "upscaler",
        any_of(
            has_keys("conv_first.weight"),
            has_keys("params_ema.conv_first.weight"),
            has_keys("params.conv_first.weight"),
            has_keys("body.0.weight", "body.1.weight", "body.2.weight"),
        ),
        "it enlarges pictures and is no checkpoint. Move it into models/upscalers.",
    ),
    _known(
        "upscaler-old",
        "upscaler (old names)",
        has_keys("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"),
        "it enlarges pictures and is no checkpoint. Move it into models/upscalers.",
    ),
)
