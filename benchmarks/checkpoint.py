"""A checkpoint with the exact keys, shapes and size of SD 1.5 in one file, and random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from backend.nn.autoencoder import Autoencoder, AutoencoderConfig
from backend.nn.unet import UNet, UNetConfig
from backend.weights.safetensors_file import write_safetensors

CLIP = {
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


def random_checkpoint(folder: Path) -> Path:
    """The file in `folder`, written unless it is there: 2.1 GB of float16."""
    path = folder / "random-sd15.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, random_tensors(torch.float16))
    return path


def random_tensors(dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights of about the spread that keeps activations near 1, so that arithmetic meets no extremes."""
    with torch.device("meta"):
        parts: dict[str, nn.Module] = {
            "model.diffusion_model.": UNet(UNetConfig()),
            "first_stage_model.": Autoencoder(AutoencoderConfig()),
            "cond_stage_model.transformer.text_model.": CLIPTextModel(CLIPTextConfig(**CLIP)),
        }
    generator = torch.Generator().manual_seed(0)
    tensors = {
        prefix + name: _random(name, slot, generator).to(dtype)
        for prefix, part in parts.items()
        for name, slot in part.state_dict().items()
    }
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return tensors


def _random(name: str, slot: Tensor, generator: torch.Generator) -> Tensor:
    values = torch.randn(slot.shape, generator=generator)
    if "embedding" in name:
        return values * 0.02
    if slot.dim() < 2:
        return values * 0.02 + (1 if name.endswith("weight") else 0)
    return values * slot[0].numel() ** -0.5
