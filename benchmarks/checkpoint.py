"""Checkpoints with the exact keys, shapes and size of published models in one file, and random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from backend.nn.autoencoder import Autoencoder, AutoencoderConfig
from backend.nn.unet import UNet, UNetConfig
from backend.weights.safetensors_file import write_safetensors

CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 49408,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}
CLIP_G = {
    **CLIP_L,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
_POOL = 2**24  # random numbers, of which every tensor takes its own stretch


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model whose file is made. slots: names and empty tensors of all weights."""

    name: str
    unet: UNetConfig
    slots: Callable[[], dict[str, Tensor]]


def sd15_slots() -> dict[str, Tensor]:
    slots = _slots(UNetConfig(), "cond_stage_model.transformer.text_model.")
    return {**slots, "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}


def sdxl_slots() -> dict[str, Tensor]:
    slots = _slots(SDXL_UNET, "conditioner.embedders.0.transformer.text_model.")
    slots |= {f"conditioner.embedders.1.model.{name}": slot for name, slot in _open_clip_g().items()}
    return {**slots, "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}


SDXL_UNET = UNetConfig(
    channel_mult=(1, 2, 4),
    transformer_depth=(0, 2, 10),
    middle_depth=10,
    context_dim=2048,
    num_heads=None,
    head_dim=64,
    linear_projections=True,
    adm_in_channels=2816,
)
SHAPES = {
    "sd15": Shape(name="sd15", unet=UNetConfig(), slots=sd15_slots),
    "sdxl": Shape(name="sdxl", unet=SDXL_UNET, slots=sdxl_slots),
}


def random_checkpoint(folder: Path, shape: Shape) -> Path:
    """The file in `folder`, written unless it is there: 2.1 GB of float16 for SD 1.5, 6.9 GB for SDXL."""
    path = folder / f"random-{shape.name}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, random_tensors(shape.slots(), torch.float16))
    return path


def random_tensors(slots: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights of about the spread that keeps activations near 1, so that arithmetic meets no extremes."""
    pool = torch.randn(_POOL, generator=torch.Generator().manual_seed(0))
    tensors: dict[str, Tensor] = {}
    for number, (name, slot) in enumerate(slots.items()):
        tensors[name] = slot if slot.device.type != "meta" else _random(name, slot, pool, number).to(dtype)
    return tensors


def _slots(unet: UNetConfig, clip_prefix: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        parts: dict[str, nn.Module] = {
            "model.diffusion_model.": UNet(unet),
            "first_stage_model.": Autoencoder(AutoencoderConfig()),
            clip_prefix: CLIPTextModel(CLIPTextConfig(**CLIP_L)),
        }
    return {prefix + name: slot for prefix, part in parts.items() for name, slot in part.state_dict().items()}


def _open_clip_g() -> dict[str, Tensor]:
    width = CLIP_G["hidden_size"]
    assert isinstance(width, int)

    def linear(name: str, outputs: int, inputs: int) -> dict[str, Tensor]:
        return {f"{name}.weight": _meta(outputs, inputs), f"{name}.bias": _meta(outputs)}

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": _meta(width), f"{name}.bias": _meta(width)}

    slots = {
        "token_embedding.weight": _meta(49408, width),
        "positional_embedding": _meta(77, width),
        "text_projection": _meta(width, width),
        "logit_scale": torch.tensor(4.6),
        **norm("ln_final"),
    }
    for layer in range(32):
        block = f"transformer.resblocks.{layer}"
        slots |= norm(f"{block}.ln_1") | norm(f"{block}.ln_2")
        slots |= linear(f"{block}.attn.out_proj", width, width)
        slots |= {
            f"{block}.attn.in_proj_weight": _meta(3 * width, width),
            f"{block}.attn.in_proj_bias": _meta(3 * width),
        }
        slots |= linear(f"{block}.mlp.c_fc", 4 * width, width) | linear(f"{block}.mlp.c_proj", width, 4 * width)
    return slots


def _meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _random(name: str, slot: Tensor, pool: Tensor, number: int) -> Tensor:
    start = number * 7919 % (_POOL // 2)
    count = slot.numel()
    repeats = -(-(start + count) // _POOL)
    values = pool.repeat(repeats)[start : start + count].view(slot.shape)
    if "embedding" in name:
        return values * 0.02
    if slot.dim() < 2:
        return values * 0.02 + (1 if name.endswith("weight") else 0)
    return values * slot[0].numel() ** -0.5
