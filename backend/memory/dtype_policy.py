"""Which arithmetic each part of a model uses on which device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from backend.memory.device import DeviceFacts


@dataclass(frozen=True, kw_only=True)
class DtypePolicy:
    """Compute types by part of a model. Latents and sampling are always float32.

    transformer: diffusion transformers (SD 3, FLUX.1, PixArt). t5: the T5 text encoder, which overflows float16.
    """

    unet: torch.dtype
    text_encoder: torch.dtype
    autoencoder: torch.dtype
    transformer: torch.dtype = torch.float32
    t5: torch.dtype = torch.float32


def policy_for(device: DeviceFacts, *, full_precision: bool = False) -> DtypePolicy:
    """The fastest types that keep the picture: bfloat16 where it has units, never float16 arithmetic on a CPU.

    On GPUs the SD U-Nets run in float16, for which they were trained, and the autoencoder in bfloat16 or float32,
    because its activations overflow float16. Diffusion transformers were trained in bfloat16.
    """
    if full_precision:
        return _uniform(torch.float32)
    low = torch.bfloat16 if device.has_bfloat16 else torch.float32
    if device.is_host or not device.has_float16:
        return _uniform(low)
    return DtypePolicy(
        unet=torch.float16,
        text_encoder=torch.float16,
        autoencoder=low,
        transformer=low if device.has_bfloat16 else torch.float16,
        t5=low,
    )


def _uniform(dtype: torch.dtype) -> DtypePolicy:
    return DtypePolicy(unet=dtype, text_encoder=dtype, autoencoder=dtype, transformer=dtype, t5=dtype)
