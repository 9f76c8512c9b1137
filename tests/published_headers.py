"""The headers of published weight files, from the facts of their architectures.

`python -m tests.published_headers` writes them to tests/headers/. Files in LDM's, Stability's and Black Forest Labs'
layouts follow the templates beside this file; those in diffusers' layout take their names from diffusers' own networks,
which are built without memory.
"""

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from tests.header_templates import (
    Shapes,
    UNetFacts,
    autoencoder,
    behind,
    clip,
    conv,
    flux,
    kohya_lora,
    linear,
    mmdit,
    norm,
    open_clip,
    pixart,
    t5_xxl,
    unet,
)

D: Any = diffusers
FOLDER = Path(__file__).parent / "headers"


@dataclass(frozen=True, kw_only=True)
class Header:
    """dtype: of all tensors but those in `others`, in safetensors' names."""

    shapes: Shapes
    dtype: str = "F16"
    others: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        tensors = {name: [self.others.get(name, self.dtype), list(shape)] for name, shape in self.shapes.items()}
        content = json.dumps({"metadata": dict(self.metadata), "tensors": tensors}, separators=(",", ":"))
        return gzip.compress(content.encode(), mtime=0)


# What the published configurations say

SD1 = UNetFacts(
    channels=320,
    mult=(1, 2, 4, 4),
    down=(1,) * 6 + (0,) * 2,
    up=(0,) * 3 + (1,) * 9,
    middle=1,
    context=768,
    linear=False,
)
SD2 = replace(SD1, context=1024, linear=True)
SDXL = UNetFacts(
    channels=320,
    mult=(1, 2, 4),
    down=(0, 0, 2, 2, 10, 10),
    up=(10, 10, 10, 2, 2, 2, 0, 0, 0),
    middle=10,
    context=2048,
    linear=True,
    vector=2816,
)
REFINER = UNetFacts(
    channels=384,
    mult=(1, 2, 4, 4),
    down=(0, 0, 4, 4, 4, 4, 0, 0),
    up=(0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0),
    middle=4,
    context=1280,
    linear=True,
    vector=2560,
)
SSD_1B = replace(SDXL, down=(0, 0, 2, 2, 4, 4), up=(4, 4, 10, 2, 1, 1, 0, 0, 0), middle=0, middle_blocks=1)
X4_UPSCALER = UNetFacts(
    channels=256,
    mult=(1, 2, 2, 4),
    down=(0, 0) + (1,) * 6,
    up=(1,) * 9 + (0,) * 3,
    middle=1,
    context=1024,
    linear=True,
    in_channels=7,
)

BLOCKS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
XL_BLOCKS: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", BLOCKS[0], BLOCKS[0]),
    "up_block_types": (BLOCKS[1], BLOCKS[1], "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VEGA = XL_BLOCKS | {
    "transformer_layers_per_block": (1, 1, 2),
    "mid_block_type": "UNetMidBlock2D",
}
KOALA_700M = XL_BLOCKS | {"layers_per_block": 1, "transformer_layers_per_block": (1, 2, 5), "mid_block_type": None}
SD1_DIFFUSERS: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8}
BK_SDM_SMALL = SD1_DIFFUSERS | {"layers_per_block": 1, "mid_block_type": None}
BK_SDM_TINY = BK_SDM_SMALL | {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": BLOCKS[:1] * 3,
    "up_block_types": BLOCKS[1:] * 3,
}
KOLORS = XL_BLOCKS | {
    "transformer_layers_per_block": (1, 2, 10),
    "projection_class_embeddings_input_dim": 5632,
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
}

_TRAINING = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
)  # fmt: skip


def sd1_file(facts: UNetFacts = SD1) -> Header:
    return Header(
        shapes=behind("model.diffusion_model.", unet(facts))
        | behind("first_stage_model.", autoencoder())
        | behind("cond_stage_model.transformer.", clip(768, 12))
        | dict.fromkeys(_TRAINING, (1000,)),
        dtype="F32",
        others={"cond_stage_model.transformer.text_model.embeddings.position_ids": "I64"},
    )


def sd2_file(facts: UNetFacts = SD2, more: Shapes | None = None) -> Header:
    return Header(
        shapes=behind("model.diffusion_model.", unet(facts))
        | behind("first_stage_model.", autoencoder())
        | behind("cond_stage_model.model.", open_clip(1024, 24))
        | dict.fromkeys(_TRAINING, (1000,))
        | (more or {}),
        dtype="F32",
    )


def sdxl_file(facts: UNetFacts = SDXL, markers: Shapes | None = None, metadata: Mapping[str, str] = {}) -> Header:
    return Header(
        shapes=behind("model.diffusion_model.", unet(facts))
        | behind("first_stage_model.", autoencoder())
        | behind("conditioner.embedders.0.transformer.", clip(768, 12))
        | behind("conditioner.embedders.1.model.", open_clip(1280, 32))
        | (markers or {}),
        others={
            "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": "I64",
            **dict.fromkeys(markers or {}, "F32"),
        },
        metadata=metadata,
    )


def refiner_file() -> Header:
    return Header(
        shapes=behind("model.diffusion_model.", unet(REFINER))
        | behind("first_stage_model.", autoencoder())
        | behind("conditioner.embedders.0.model.", open_clip(1280, 32))
    )


def alone(shapes: Shapes, *, prefix: str = "", dtype: str = "F16") -> Header:
    return Header(shapes=behind(prefix, shapes), dtype=dtype)


def sd3_file(network: Shapes, *, with_t5: bool) -> Header:
    """As ComfyUI's and Stability's files that hold the text encoders, too."""
    encoders = behind("text_encoders.clip_l.transformer.", clip(768, 12, positions=False))
    encoders |= behind("text_encoders.clip_g.transformer.", clip(1280, 32, positions=False))
    for kind, width in (("clip_l", 768), ("clip_g", 1280)):
        encoders[f"text_encoders.{kind}.transformer.text_projection.weight"] = (width, width)
    fp8: Shapes = behind("text_encoders.t5xxl.transformer.", t5_xxl()) if with_t5 else {}
    vae = behind("first_stage_model.", autoencoder(latents=16, quantised=False))
    return Header(
        shapes=behind("model.diffusion_model.", network) | encoders | fp8 | vae, others=dict.fromkeys(fp8, "F8_E4M3")
    )


def scaled_fp8(network: Shapes) -> Header:
    """ComfyUI's scaled fp8: a scale beside every matrix, and a marker."""
    matrices = [name for name, shape in network.items() if len(shape) == 2 and name.endswith(".weight")]
    scales: Shapes = {name.removesuffix("weight") + "scale_weight": () for name in matrices}
    others = dict.fromkeys(matrices, "F8_E4M3") | dict.fromkeys(scales, "F32") | {"scaled_fp8": "F8_E4M3"}
    return Header(shapes=network | scales | {"scaled_fp8": (2,)}, dtype="BF16", others=others)


def of_network(build: Callable[[], nn.Module], *, prefix: str = "", dtype: str = "F16") -> Header:
    with torch.device("meta"):
        network = build()
    shapes = {prefix + name: tuple(value.shape) for name, value in network.state_dict().items()}
    return Header(shapes=shapes, dtype=dtype)


def diffusers_unet(settings: Mapping[str, Any]) -> Header:
    return of_network(lambda: D.UNet2DConditionModel(**settings))


def vega() -> Header:
    """diffusers cannot be told different depths on the way down and up but by this list."""
    return diffusers_unet(VEGA | {"reverse_transformer_layers_per_block": ((2, 2, 2), (1, 1, 1), 1)})


def diffusers_vae() -> Header:
    settings: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
    }
    return of_network(lambda: D.AutoencoderKL(**settings))


def sd1_lora() -> Header:
    """Of the attentions of a diffusers U-Net, as kohya's scripts name them."""
    with torch.device("meta"):
        network = D.UNet2DConditionModel(**SD1_DIFFUSERS)
    sizes = {
        f"lora_unet_{name.replace('.', '_')}": (module.in_features, module.out_features)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and "transformer_blocks" in name
    }
    return Header(
        shapes=kohya_lora(tuple(sizes), sizes, rank=16),
        metadata={"ss_base_model_version": "sd_v1", "ss_network_module": "networks.lora"},
    )


def esrgan() -> Header:
    """RealESRGAN x4 in the names of BasicSR's RRDBNet."""
    shapes = conv("conv_first", 3, 64)
    for block in range(23):
        for dense in (1, 2, 3):
            for layer in range(1, 6):
                shapes |= conv(f"body.{block}.rdb{dense}.conv{layer}", 64 + 32 * (layer - 1), 32 if layer < 5 else 64)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        shapes |= conv(name, 64, 64)
    return Header(shapes=shapes | conv("conv_last", 64, 3), dtype="F32")


def ldm_controlnet() -> Header:
    """The way down of a U-Net with a convolution behind each block, under `control_model.`."""
    down = {name: shape for name, shape in unet(SD1).items() if not name.startswith(("output_blocks.", "out."))}
    widths = (320, 320, 320, 320, 640, 640, 640, 1280, 1280, 1280, 1280, 1280)
    for index, width in enumerate(widths):
        down |= conv(f"zero_convs.{index}.0", width, width, 1)
    hint = (3, 16, 16, 32, 32, 96, 96, 256, 320)
    for index, (inputs, outputs) in enumerate(pairwise(hint)):
        down |= conv(f"input_hint_block.{2 * index}", inputs, outputs)
    return alone(down | conv("middle_block_out.0", 1280, 1280, 1), prefix="control_model.", dtype="F32")


def ip_adapter() -> Header:
    shapes = linear("image_proj.proj", 1024, 4 * 768) | norm("image_proj.norm", 768)
    widths = (320, 320, 640, 640, 1280, 1280, 1280, 1280, 1280, 640, 640, 640, 320, 320, 320, 1280)
    for index, width in enumerate(widths):
        for part in ("to_k_ip", "to_v_ip"):
            shapes |= linear(f"ip_adapter.{2 * index + 1}.{part}", 768, width, bias=False)
    return Header(shapes=shapes)


def sd2_unclip() -> Header:
    facts = replace(SD2, vector=2048)
    vision = behind("embedder.model.visual.", {"class_embedding": (1280,), "conv1.weight": (1280, 3, 14, 14)})
    return sd2_file(facts, vision | {"noise_augmentor.data_mean": (1, 1024), "noise_augmentor.data_std": (1, 1024)})


def x4_upscaler() -> Header:
    network = unet(X4_UPSCALER) | {"label_emb.weight": (1000, 1024)}
    return Header(
        shapes=behind("model.diffusion_model.", network)
        | behind("first_stage_model.", autoencoder(mult=(1, 2, 4)))
        | behind("cond_stage_model.model.", open_clip(1024, 24)),
        dtype="F32",
    )


def sd2_depth() -> Header:
    depth = behind(
        "depth_model.model.", {"pretrained.model.cls_token": (1, 1, 1024)} | conv("scratch.layer1_rn", 256, 256)
    )
    return sd2_file(replace(SD2, in_channels=5), depth)


def clip_text(name: str) -> Header:
    """A text encoder of its own in transformers' names."""
    width, layers = {"clip_l": (768, 12), "clip_g": (1280, 32)}[name]
    projection: Shapes = {"text_projection.weight": (width, width)}
    return Header(shapes=clip(width, layers, positions=False) | projection)


def clip_vision() -> Header:
    config = transformers.CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14,
        projection_dim=1024,
    )  # fmt: skip
    header = of_network(lambda: transformers.CLIPVisionModelWithProjection(config))
    prefix = "" if any(name.startswith("vision_model.") for name in header.shapes) else "vision_model."
    return Header(
        shapes={
            name if name.startswith("visual_proj") else prefix + name: shape for name, shape in header.shapes.items()
        }
    )


def hunyuan_dit() -> Header:
    settings: dict[str, Any] = {
        "num_attention_heads": 16, "attention_head_dim": 88, "in_channels": 4, "patch_size": 2,
        "activation_fn": "gelu-approximate", "sample_size": 128, "hidden_size": 1408,
        "num_layers": 4, "mlp_ratio": 4.3637,
    }  # fmt: skip
    return of_network(lambda: D.HunyuanDiT2DModel(**settings))


# Telling parts of what is recognised and not run, in the layouts of their own repositories. Not whole files.
EXCERPTS: dict[str, Shapes] = {
    "hunyuan-dit-original": linear("mlp_t5.0", 2048, 8192) | conv("x_embedder.proj", 4, 1408, 2)
    | linear("blocks.0.default_modulation.1", 1408, 1408) | {"pooler.positional_embedding": (257, 2048)},
    "aura-flow-original": {"positional_encoding": (1, 9216, 3072), "double_layers.0.attn.w1q.weight": (3072, 3072)}
    | linear("cond_seq_linear", 2048, 3072, bias=False),
    "lumina2-original": linear("cap_embedder.1", 2304, 2304)
    | {"noise_refiner.0.attention.k_norm.weight": (96,), "layers.0.attention.qkv.weight": (3840, 2304)},
    "z-image-original": linear("cap_embedder.1", 2560, 3840)
    | {"noise_refiner.0.attention.k_norm.weight": (128,), "layers.0.attention.qkv.weight": (11520, 3840)},
    "wan-original": {"patch_embedding.weight": (5120, 16, 1, 2, 2), "head.modulation": (1, 2, 5120)}
    | linear("blocks.0.self_attn.q", 5120, 5120) | linear("text_embedding.0", 4096, 5120),
    "hunyuan-video-original": {"img_in.proj.weight": (3072, 16, 1, 2, 2)}
    | norm("txt_in.individual_token_refiner.blocks.0.norm1", 3072) | linear("double_blocks.0.img_attn_qkv", 3072, 9216),
    "ltx-video-original": linear("patchify_proj", 128, 2048)
    | linear("adaln_single.emb.timestep_embedder.linear_1", 256, 2048)
    | linear("transformer_blocks.0.attn2.to_k", 2048, 2048),
    "stable-cascade-original": norm("clf.1", 2048) | linear("clip_txt_mapper", 1280, 2048),
    "dit-original": conv("x_embedder.proj", 4, 1152, 2) | {"y_embedder.embedding_table.weight": (1001, 1152)}
    | linear("blocks.0.adaLN_modulation.1", 1152, 6912) | linear("final_layer.linear", 1152, 32),
    "chroma-original": linear("img_in", 64, 3072) | {"distilled_guidance_layer.norms.0.scale": (5120,)}
    | linear("double_blocks.0.img_attn.qkv", 3072, 9216) | {"double_blocks.0.img_attn.norm.key_norm.scale": (128,)}
    | linear("final_layer.linear", 3072, 64),
    "flux2-original": linear("img_in", 128, 6144, bias=False)
    | linear("double_stream_modulation_img.lin", 6144, 36864, bias=False)
    | linear("double_blocks.0.img_attn.qkv", 6144, 18432, bias=False)
    | linear("final_layer.linear", 6144, 128, bias=False)
    | {"double_blocks.0.img_attn.norm.key_norm.scale": (128,)},
    "svd-original": behind("model.diffusion_model.", conv("input_blocks.0.0", 8, 320)
    | linear("input_blocks.1.1.time_stack.0.attn1.to_q", 320, 320, bias=False) | linear("label_emb.0.0", 768, 1280)
    | linear("input_blocks.1.1.transformer_blocks.0.attn2.to_k", 1024, 320, bias=False)),
    "animatediff-motion": {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (320,)}
    | linear("down_blocks.0.motion_modules.0.temporal_transformer.proj_in", 320, 320),
    "t2i-adapter": conv("conv_in", 192, 320) | conv("body.0.block1", 320, 320) | conv("body.0.block2", 320, 320, 1),
    "flux-controlnet": linear("controlnet_blocks.0", 3072, 3072) | linear("controlnet_x_embedder", 64, 3072),
    "embedding-sd1": {"emb_params": (8, 768)},
    "embedding-sdxl": {"clip_l": (8, 768), "clip_g": (8, 1280)},
    "esrgan-old": conv("model.0", 3, 64) | conv("model.1.sub.0.RDB1.conv1.0", 64, 32),
    "llama-text-encoder": {"model.embed_tokens.weight": (152064, 3584)}
    | linear("model.layers.0.self_attn.q_proj", 3584, 3584),
    "video-vae": {"encoder.conv1.weight": (96, 3, 3, 3, 3), "decoder.conv1.weight": (384, 16, 3, 3, 3)},
    "taesd": conv("decoder.layers.0", 4, 64) | conv("encoder.layers.0", 3, 64),
    "other-mmdit": linear("transformer_blocks.0.attn.add_k_proj", 1536, 1536),
    "inception": {"Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3), "Mixed_5b.branch1x1.conv.weight": (64, 192, 1, 1)},
}  # fmt: skip

HEADERS: dict[str, Callable[[], Header]] = {
    "sd15": sd1_file,
    "sd15-inpainting": lambda: sd1_file(replace(SD1, in_channels=9)),
    "instruct-pix2pix": lambda: sd1_file(replace(SD1, in_channels=8)),
    "sd15-unet-ldm": lambda: alone(unet(SD1)),
    "sd20-base": sd2_file,
    "sd21-768": sd2_file,
    "sd2-inpainting": lambda: sd2_file(replace(SD2, in_channels=9)),
    "sd2-depth": sd2_depth,
    "sd21-unclip-h": sd2_unclip,
    "sd-x4-upscaler": x4_upscaler,
    "sdxl-base": lambda: sdxl_file(markers={"denoiser.sigmas": (1000,)}),
    "sdxl-refiner": refiner_file,
    "sdxl-inpainting": lambda: sdxl_file(replace(SDXL, in_channels=9)),
    "sdxl-instruct-pix2pix": lambda: sdxl_file(replace(SDXL, in_channels=8)),
    "playground-v25": lambda: sdxl_file(markers={"edm_mean": (1, 4, 1, 1), "edm_std": (1, 4, 1, 1)}),
    "cosxl": lambda: sdxl_file(markers={"edm_vpred.sigma_max": (), "edm_vpred.sigma_min": ()}),
    "noobai-vpred": lambda: sdxl_file(markers={"v_pred": (0,), "ztsnr": (0,)}),
    "sdxl-lightning-4step": lambda: alone(unet(SDXL), prefix="model.diffusion_model."),
    "ssd-1b": lambda: sdxl_file(SSD_1B),
    "segmind-vega-unet": vega,
    "koala-700m-unet": lambda: diffusers_unet(KOALA_700M),
    "bk-sdm-base-unet": lambda: diffusers_unet(SD1_DIFFUSERS | {"layers_per_block": 1}),
    "bk-sdm-small-unet": lambda: diffusers_unet(BK_SDM_SMALL),
    "bk-sdm-tiny-unet": lambda: diffusers_unet(BK_SDM_TINY),
    "lcm-dreamshaper-unet": lambda: diffusers_unet(SD1_DIFFUSERS | {"time_cond_proj_dim": 256}),
    "sd3-medium": lambda: Header(
        shapes=behind("model.diffusion_model.", mmdit(depth=24, side=192))
        | behind("first_stage_model.", autoencoder(latents=16, quantised=False))
    ),
    "sd3-medium-with-encoders": lambda: sd3_file(mmdit(depth=24, side=192), with_t5=True),
    "sd35-medium": lambda: sd3_file(mmdit(depth=24, side=384, dual=13, normalised=True), with_t5=False),
    "sd35-large": lambda: alone(mmdit(depth=38, side=192, normalised=True), prefix="model.diffusion_model."),
    "flux-dev": lambda: alone(flux(guided=True), dtype="BF16"),
    "flux-schnell": lambda: alone(flux(guided=False), dtype="BF16"),
    "flux-fill": lambda: alone(flux(guided=True, in_channels=384), dtype="BF16"),
    "flux-dev-scaled-fp8": lambda: scaled_fp8(flux(guided=True)),
    "flux-vae": lambda: alone(autoencoder(latents=16, quantised=False), dtype="F32"),
    "pixart-alpha-1024": lambda: alone(pixart(tokens=120, sized=True)),
    "pixart-sigma-1024": lambda: alone(pixart(tokens=300, sized=False)),
    "pixart-sigma-diffusers": lambda: of_network(
        lambda: D.PixArtTransformer2DModel(sample_size=128, caption_channels=4096, use_additional_conditions=False)
    ),
    "vae-ft-mse": lambda: alone(autoencoder(), dtype="F32"),
    "sdxl-vae-diffusers": diffusers_vae,
    "clip-l": lambda: clip_text("clip_l"),
    "clip-g": lambda: clip_text("clip_g"),
    "t5-xxl": lambda: alone(t5_xxl()),
    "clip-vision": clip_vision,
    "lora-sd15": sd1_lora,
    "controlnet-ldm": ldm_controlnet,
    "controlnet-diffusers": lambda: of_network(lambda: D.ControlNetModel(cross_attention_dim=768)),
    "ip-adapter": ip_adapter,
    "esrgan": esrgan,
    "kolors-unet": lambda: diffusers_unet(KOLORS),
    "hunyuan-dit": hunyuan_dit,
    "aura-flow": lambda: of_network(lambda: D.AuraFlowTransformer2DModel(num_mmdit_layers=1, num_single_dit_layers=1)),
    "lumina2": lambda: of_network(lambda: D.Lumina2Transformer2DModel(num_layers=1)),
    "wan": lambda: of_network(lambda: D.WanTransformer3DModel(num_layers=1)),
    "hunyuan-video": lambda: of_network(lambda: D.HunyuanVideoTransformer3DModel(num_layers=1, num_single_layers=1)),
    "qwen-image": lambda: of_network(lambda: D.QwenImageTransformer2DModel(num_layers=1)),
    "dit": lambda: of_network(lambda: D.DiTTransformer2DModel(num_layers=1)),
    "svd": lambda: of_network(lambda: D.UNetSpatioTemporalConditionModel()),
    "kandinsky3": lambda: of_network(lambda: D.Kandinsky3UNet()),
    "ltx-video": lambda: of_network(lambda: D.LTXVideoTransformer3DModel(num_layers=1)),
    "sana": lambda: of_network(lambda: D.SanaTransformer2DModel(num_layers=1)),
    "cogvideox": lambda: of_network(lambda: D.CogVideoXTransformer3DModel(num_layers=1)),
    "unet-without-text": lambda: of_network(lambda: D.UNet2DModel(block_out_channels=(32,) * 4)),
    "sd3-diffusers": lambda: of_network(lambda: D.SD3Transformer2DModel(num_layers=1)),
    "flux-diffusers": lambda: of_network(lambda: D.FluxTransformer2DModel(num_layers=1, num_single_layers=1)),
    **{name: (lambda shapes=shapes: Header(shapes=shapes)) for name, shapes in EXCERPTS.items()},
}


def main() -> None:
    """Write all headers, and remove those of which no more is said here."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json.gz"):
        path.unlink()
    for name, header in HEADERS.items():
        (FOLDER / f"{name}.json.gz").write_bytes(header().encoded())


if __name__ == "__main__":
    main()
