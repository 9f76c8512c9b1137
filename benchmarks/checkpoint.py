"""Checkpoints with the exact keys, shapes and size of published models in one file, and random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from backend.nn.autoencoder import Autoencoder, AutoencoderConfig
from backend.nn.flux import Flux, FluxConfig
from backend.nn.t5 import T5Config, T5Encoder
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
_POOL = 2**25  # random numbers, of which every tensor takes its own stretch
_POOLS = 12  # of other spreads, kept


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model whose file is made. slots: names and empty tensors of all weights, in the types of the file.

    unet: None for a model with a transformer. size: of the file, for people.
    """

    name: str
    slots: Callable[[], dict[str, Tensor]]
    size: str
    unet: UNetConfig | None = None


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


def flux_fp8_slots() -> dict[str, Tensor]:
    """FLUX.1 [dev] with everything in one file, the transformer and T5 in eight bits."""
    with torch.device("meta"):
        large: dict[str, nn.Module] = {
            "model.diffusion_model.": Flux(FluxConfig(is_guided=True)),
            "text_encoders.t5xxl.transformer.": T5Encoder(T5Config()),
        }
        small: dict[str, nn.Module] = {
            "text_encoders.clip_l.transformer.text_model.": CLIPTextModel(CLIPTextConfig(**CLIP_L)),
            "vae.": Autoencoder(AutoencoderConfig(latent_channels=16, has_quant_conv=False)),
        }
    slots = {prefix + name: slot for prefix, part in large.items() for name, slot in part.state_dict().items()}
    slots = {name: slot.to(torch.float8_e4m3fn) for name, slot in slots.items()}
    for prefix, part in small.items():
        slots |= {prefix + name: slot.to(torch.float16) for name, slot in part.state_dict().items()}
    return slots


SHAPES = {
    "sd15": Shape(name="sd15", unet=UNetConfig(), slots=sd15_slots, size="2.1 GB"),
    "sdxl": Shape(name="sdxl", unet=SDXL_UNET, slots=sdxl_slots, size="6.9 GB"),
    "flux-fp8": Shape(name="flux-fp8", slots=flux_fp8_slots, size="17 GB"),
}


def random_checkpoint(folder: Path, shape: Shape, *, seed: int = 0) -> Path:
    """The file in `folder`, written unless it is there."""
    path = folder / f"random-{shape.name}{f'-{seed}' if seed else ''}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, RandomWeights(shape.slots(), seed))
    return path


class RandomWeights(Mapping[str, Tensor]):
    """Weights of about the spread that keeps activations near 1, so that arithmetic meets no extremes.

    Made when they are asked for, from one pool of random numbers, because a model may be larger than the memory.
    """

    def __init__(self, slots: Mapping[str, Tensor], seed: int) -> None:
        self._slots = slots
        self._numbers = {name: number for number, name in enumerate(slots)}
        self._pool = torch.randn(_POOL, generator=torch.Generator().manual_seed(seed))
        self._scaled: dict[tuple[float, torch.dtype], Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        slot = self._slots[name]
        if slot.device.type != "meta":
            return slot
        if slot.dim() < 2:
            return (self._pool[: slot.numel()] * 0.02 + (1 if name.endswith(("weight", "scale")) else 0)).to(slot.dtype)
        pool = self._pool_of(0.02 if "embedding" in name else slot[0].numel() ** -0.5, slot.dtype)
        start = self._numbers[name] * 7919 % (_POOL // 2)
        end = start + slot.numel()
        numbers = pool if end <= _POOL else pool.repeat(-(-end // _POOL))
        return numbers[start:end].view(slot.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def _pool_of(self, spread: float, dtype: torch.dtype) -> Tensor:
        key = spread, dtype
        if key not in self._scaled:
            if len(self._scaled) == _POOLS:
                del self._scaled[next(iter(self._scaled))]
            self._scaled[key] = (self._pool * spread).to(dtype)
        return self._scaled[key]


def _slots(unet: UNetConfig, clip_prefix: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        parts: dict[str, nn.Module] = {
            "model.diffusion_model.": UNet(unet),
            "first_stage_model.": Autoencoder(AutoencoderConfig()),
            clip_prefix: CLIPTextModel(CLIPTextConfig(**CLIP_L)),
        }
    slots = {prefix + name: slot for prefix, part in parts.items() for name, slot in part.state_dict().items()}
    return {name: slot.to(torch.float16) for name, slot in slots.items()}


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
    return torch.empty(shape, device="meta", dtype=torch.float16)
