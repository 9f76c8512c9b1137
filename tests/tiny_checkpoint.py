"""A complete checkpoint in the SD 1.x layout with random weights, a few hundred thousand of them."""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from backend.nn.autoencoder import Autoencoder, AutoencoderConfig
from backend.nn.unet import UNet, UNetConfig
from backend.weights.safetensors_file import write_safetensors

UNET = UNetConfig(model_channels=16, channel_mult=(1, 1, 2, 2), context_dim=16, num_heads=2, norm_groups=4)
AUTOENCODER = AutoencoderConfig(channels=8, channel_mult=(1, 1, 2, 2), num_res_blocks=1, norm_groups=2)
TEXT_WIDTH, TEXT_HEADS = 16, 2

METADATA = {
    "emulsion.norm_groups": "4",
    "emulsion.vae_norm_groups": "2",
    "emulsion.num_heads": "2",
    "emulsion.text_heads": "2",
    "emulsion.native_size": "64",
    "modelspec.title": "Tiny random model",
}


def write_tiny_checkpoint(
    path: Path,
    *,
    seed: int = 0,
    unet: UNetConfig = UNET,
    metadata: dict[str, str] | None = None,
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write the checkpoint to `path` and return it. The same seed gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, _tensors_to_write(seed, unet, dtype), {**METADATA, **(metadata or {})})
    return path


@lru_cache(maxsize=8)
def _tensors_to_write(seed: int, unet: UNetConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """Nobody changes them: many tests of a file write the same checkpoints."""
    return tiny_tensors(seed=seed, unet=unet, dtype=dtype)


def write_t5_header(path: Path) -> Path:
    """Write a file that is known as T5 by its names; it encodes nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight")
    write_safetensors(path, {name: torch.zeros(4, 4) for name in names}, {})
    return path


def tiny_tensors(*, seed: int = 0, unet: UNetConfig = UNET, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """The tensors of a tiny checkpoint by their keys."""
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=TEXT_HEADS,
            vocab_size=49408,
        )
    )
    parts: dict[str, nn.Module] = {
        "model.diffusion_model.": UNet(unet),
        "first_stage_model.": Autoencoder(AUTOENCODER),
        "cond_stage_model.transformer.text_model.": text,
    }
    generator = torch.Generator().manual_seed(seed)
    return {
        prefix + name: _random(value, generator).to(dtype)
        for prefix, part in parts.items()
        for name, value in part.state_dict().items()
    }


def _random(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Kernels that keep the spread of what goes through; norms near 1."""
    noise = torch.randn(tensor.shape, generator=generator)
    if tensor.dim() < 2:
        return 0.5 + 0.1 * noise
    return noise * tensor[0].numel() ** -0.5
