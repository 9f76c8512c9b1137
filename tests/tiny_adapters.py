"""Small models and LoRAs for tests of adapters."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from backend.adapters.lora_file import Adapter
from backend.weights.source import InMemory

UNET = "model.diffusion_model."
QUERY = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_q"
KEY = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k"
CONV = f"{UNET}input_blocks.1.0.in_layers.2"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj"
KOHYA = {
    QUERY: "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q",
    KEY: "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
    CONV: "lora_unet_down_blocks_0_resnets_0_conv1",
    TEXT: "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sd1_tensors(*, dtype: torch.dtype = torch.float16, seed: int = 0) -> dict[str, Tensor]:
    """Enough of an SD 1.x checkpoint that its layers can be named."""
    shapes = {
        f"{UNET}input_blocks.0.0.weight": (8, 4, 3, 3),
        f"{CONV}.weight": (8, 8, 3, 3),
        f"{CONV}.bias": (8,),
        f"{UNET}input_blocks.1.0.in_layers.0.weight": (8,),
        f"{UNET}input_blocks.1.0.in_layers.0.bias": (8,),
        f"{QUERY}.weight": (8, 8),
        f"{KEY}.weight": (8, 6),
        f"{TEXT}.weight": (6, 6),
        f"{TEXT}.bias": (6,),
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": (6,),
        "first_stage_model.decoder.conv_in.weight": (4, 4, 3, 3),
    }
    return {key: draw(*shape, seed=seed + index).to(dtype) for index, (key, shape) in enumerate(shapes.items())}


def sd1_source(*, dtype: torch.dtype = torch.float16, seed: int = 0) -> InMemory:
    return InMemory(sd1_tensors(dtype=dtype, seed=seed))


def lora_tensors(
    modules: Mapping[str, tuple[int, ...]], *, rank: int = 2, alpha: float | None = 1.0, seed: int = 7
) -> dict[str, Tensor]:
    """A kohya LoRA. modules: name -> shape of the weight."""
    tensors: dict[str, Tensor] = {}
    for index, (name, shape) in enumerate(modules.items()):
        tail = (1,) * (len(shape) - 2)
        tensors[f"{name}.lora_up.weight"] = draw(shape[0], rank, *tail, seed=seed + 2 * index)
        tensors[f"{name}.lora_down.weight"] = draw(rank, *shape[1:], seed=seed + 2 * index + 1)
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def sd1_lora(*, seed: int = 7, rank: int = 2, alpha: float | None = 1.0) -> dict[str, Tensor]:
    """For the attention, the convolution and the text encoder of `sd1_tensors`."""
    shapes = {QUERY: (8, 8), KEY: (8, 6), CONV: (8, 8, 3, 3), TEXT: (6, 6)}
    return lora_tensors({KOHYA[key]: shape for key, shape in shapes.items()}, rank=rank, alpha=alpha, seed=seed)


def adapter(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Adapter:
    return Adapter(InMemory(tensors, metadata=metadata, origin=Path("cat.safetensors")))


def product(tensors: Mapping[str, Tensor], module: str) -> Tensor:
    """What a kohya LoRA adds at strength 1, computed the plain way in float64."""
    up, down = (tensors[f"{KOHYA[module]}.lora_{side}.weight"].double() for side in ("up", "down"))
    alpha = tensors.get(f"{KOHYA[module]}.alpha")
    scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
    return scale * (up.flatten(1) @ down.flatten(1)).view(up.shape[0], *down.shape[1:])
