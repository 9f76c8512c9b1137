"""Tiny text encoders, autoencoders and runs for families with a diffusion transformer, shared with diffusers."""

from collections.abc import Mapping, Sequence

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

from backend.diffusion.guidance import classifier_free
from backend.diffusion.prediction import denoiser
from backend.diffusion.samplers.euler import euler
from backend.families.family import Machine, Model, Prompt
from backend.memory.device import DeviceFacts
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.residency import Residency
from backend.text.clip_tokenizer import END_TEXT, ClipTokenizer
from backend.text.emphasis import BUILTIN as EMPHASIS
from backend.weights.source import InMemory, WeightSource
from tests.reference_weights import with_random_weights

SIZE = 64  # pixels
WIDTH_L, WIDTH_G, WIDTH_T5 = 64, 128, 208
FULL = DtypePolicy(unet=torch.float32, text_encoder=torch.float32, autoencoder=torch.float32)


def machine(budget: int = 2**30) -> Machine:
    device = DeviceFacts(kind="cpu", name="test", total_bytes=2**33, has_bfloat16=True, has_float16=False)
    return Machine(device=device, policy=FULL, residency=Residency(budget, small=2048))


def clip(width: int, *, projected: bool = True) -> nn.Module:
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=width // 64,
        projection_dim=width,
        hidden_act="quick_gelu" if width == WIDTH_L else "gelu",
        eos_token_id=END_TEXT,
    )
    return with_random_weights((CLIPTextModelWithProjection if projected else CLIPTextModel)(config))


def t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=32128, d_model=WIDTH_T5, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return with_random_weights(T5EncoderModel(config))


def clip_tokenizer(padding: str = "<|endoftext|>") -> CLIPTokenizer:
    ours = ClipTokenizer.load()
    merges = sorted(ours.ranks, key=lambda pair: ours.ranks[pair])
    return CLIPTokenizer(vocab=dict(ours.vocabulary), merges=merges, pad_token=padding, model_max_length=77)


def autoencoder(channels: int, *, scaling: float, shift: float | None = None) -> AutoencoderKL:
    is_of_flow = channels == 16
    return with_random_weights(
        AutoencoderKL(
            latent_channels=channels,
            block_out_channels=(32, 32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            use_quant_conv=not is_of_flow,
            use_post_quant_conv=not is_of_flow,
            scaling_factor=scaling,
            shift_factor=shift,
        )
    )


def source_of(module: nn.Module) -> WeightSource:
    return InMemory(dict(module.state_dict()))


def with_name_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in tensors.items()}


def prompt(text: str, *, is_negative: bool = False) -> Prompt:
    return Prompt(text=text, is_negative=is_negative, emphasis=EMPHASIS[0], width=SIZE, height=SIZE)


@torch.no_grad()
def sampled(
    model: Model, sigmas: Sequence[float], latents: Tensor, texts: tuple[str, str | None], scale: float
) -> Tensor:
    """Latents after Euler steps from `latents` times the first sigma."""
    levels = model.levels(SIZE, SIZE, None)
    network = model.network([levels.timestep(sigma) for sigma in sigmas[:-1]])
    cond = model.encode_prompt(prompt(texts[0]))
    uncond = None if texts[1] is None else model.encode_prompt(prompt(texts[1], is_negative=True))
    denoise = denoiser(classifier_free(network, cond, uncond, scale), model.prediction, levels)
    return euler(denoise, latents * sigmas[0], sigmas, model.process, lambda: torch.zeros_like(latents))


@torch.no_grad()
def decoded_by(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    return vae.decode(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0)).sample
