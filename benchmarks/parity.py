"""Ours against diffusers and transformers, float32, full shapes of SD 1.5: `python -m benchmarks.parity FILE`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from backend.families.unet_shapes import autoencoder_config_from, unet_config_from
from backend.memory.layouts import Target
from backend.memory.part import Part
from backend.memory.residency import Residency
from backend.nn.autoencoder import Autoencoder
from backend.nn.clip_text import ClipText
from backend.nn.unet import UNet
from backend.text.chunks import compile_chunks
from backend.text.clip_encoder import SD1_CLIP_L, encode_clip
from backend.text.clip_tokenizer import ClipTokenizer
from backend.text.emphasis import BUILTIN as EMPHASIS_MODES
from backend.text.emphasis import parse_emphasis
from backend.text.encoder_config import clip_config_from
from backend.text.encoder_layouts import CLIP_L, clip_in
from backend.weights.safetensors_file import SafetensorsFile, open_safetensors
from backend.weights.source import WeightSource, with_prefix
from benchmarks.checkpoint import CLIP_L as CLIP
from benchmarks.diffusers_run import AUTOENCODER

_CPU = torch.device("cpu")
N = TypeVar("N", bound=nn.Module)


@torch.inference_mode()
def main(checkpoint: Path) -> None:
    file = open_safetensors(checkpoint)
    errors = {"text encoder": _text_error(file), "U-Net": _unet_error(file), **_autoencoder_errors(file)}
    print(json.dumps(errors))


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((ours - reference).abs().max() / reference.abs().max())


def _held(build: Callable[[], N], source: WeightSource, target: Target, label: str) -> N:
    return cast(N, Residency(2**40).get(Part(label, label, source, target, build)))


def _unet_error(file: SafetensorsFile) -> float:
    source = with_prefix(file, "model.diffusion_model.")
    ours = _held(
        lambda: UNet(unet_config_from(source, num_heads=8, head_dim=None, norm_groups=32)),
        source,
        Target(_CPU, torch.float32, widens_on_use=True),
        "U-Net",
    )
    config = {"cross_attention_dim": 768}
    reference = UNet2DConditionModel(**config)
    weights = {f"model.diffusion_model.{key}": tensor for key, tensor in _float32(source).items()}
    reference.load_state_dict(
        convert_ldm_unet_checkpoint(weights, {**config, "layers_per_block": 2, "use_linear_projection": False})
    )
    generator = torch.Generator().manual_seed(0)
    x, context = (torch.randn(shape, generator=generator) for shape in ((2, 4, 64, 64), (2, 77, 768)))
    timesteps = torch.tensor([999.0, 12.0])
    return relative_error(ours(x, timesteps, context), reference(x, timesteps, context).sample)


def _autoencoder_errors(file: SafetensorsFile) -> dict[str, float]:
    source = with_prefix(file, "first_stage_model.")
    ours = _held(
        lambda: Autoencoder(autoencoder_config_from(source, norm_groups=32)),
        source,
        Target(_CPU, torch.float32, widens_on_use=True),
        "autoencoder",
    )
    reference = AutoencoderKL(**AUTOENCODER)
    weights = {f"first_stage_model.{key}": tensor for key, tensor in _float32(source).items()}
    reference.load_state_dict(convert_ldm_vae_checkpoint(weights, AUTOENCODER))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 64, 64, generator=generator)
    image = torch.rand(1, 3, 512, 512, generator=generator) * 2 - 1
    return {
        "autoencoder, decoding": relative_error(ours.decode(latents), reference.decode(latents).sample),
        "autoencoder, encoding": relative_error(ours.encode(image)[0], reference.encode(image).latent_dist.mean),
    }


def _text_error(file: SafetensorsFile) -> float:
    source = clip_in(file, "cond_stage_model.")
    assert source is not None
    ours = _held(
        lambda: ClipText(clip_config_from(source, CLIP_L)), source, Target(_CPU, torch.float32), "text encoder"
    )
    reference = CLIPTextModel(CLIPTextConfig(**CLIP))
    missing, unexpected = reference.load_state_dict(_float32(source), strict=False)
    if unexpected or any(not key.endswith("position_ids") for key in missing):
        raise SystemExit(f"the reference text encoder does not fit: {missing} {unexpected}")
    prompt = compile_chunks(parse_emphasis("a photograph of a lighthouse on a cliff at dusk"), ClipTokenizer.load())
    expected = reference(torch.tensor([prompt.chunks[0].tokens])).last_hidden_state
    encoding = encode_clip(
        ours, prompt, SD1_CLIP_L, clip_skip=1, emphasis=EMPHASIS_MODES[0], device=_CPU, dtype=torch.float32
    )
    return relative_error(encoding.states, expected)


def _float32(source: WeightSource) -> dict[str, Tensor]:
    return {key: source.read(key).float() for key in source.keys()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
