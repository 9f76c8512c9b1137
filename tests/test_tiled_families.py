"""Tiles of real networks: every family takes them, and pictures have no borders where they meet."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.diffusion.guidance import ConditionedNetwork, Conditioning, classifier_free
from backend.diffusion.noise import BUILTIN as NOISES
from backend.diffusion.noise import BatchNoise
from backend.diffusion.prediction import denoiser
from backend.diffusion.samplers.euler import euler
from backend.diffusion.tiled import tiled_network
from backend.families.builtin import BUILTIN
from backend.families.family import Family, Model, ModelFiles, Prompt, identify
from backend.text.emphasis import BUILTIN as EMPHASIS
from backend.tile_boxes import spans
from backend.weights.safetensors_file import open_safetensors
from tests.tiny_families import FAMILIES, write_tiny_family
from tests.tiny_transformers import machine

SHIPPED = Path(__file__).resolve().parents[1] / "models" / "checkpoints" / "emulsion-tiny-v1.safetensors"
SIZE, OVERLAP = 16, 4  # of tiles, in latent pixels


def loaded(files: ModelFiles) -> Model:
    family: Family | None = identify(files.checkpoint, BUILTIN)
    assert family is not None
    assert family.load is not None
    return family.load(files, machine())


def told(model: Model, text: str, width: int, height: int) -> Conditioning:
    return model.encode_prompt(Prompt(text=text, emphasis=EMPHASIS[0], width=width, height=height))


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_every_family_sees_a_tile_as_it_sees_a_picture_of_its_own(name: str, tmp_path: Path) -> None:
    file = write_tiny_family(name, tmp_path / "tiny.safetensors")
    model = loaded(ModelFiles(checkpoint=open_safetensors(file)))
    channels, height, width = model.latent_shape(256, 192)
    conditioning = told(model, "a cat", 256, 192)
    network = model.network([500.0])
    x = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    times = torch.full((2,), 500.0)
    whole = tiled_network(network, SIZE, OVERLAP, tiles_per_call=2)(x, times, conditioning)
    assert whole.shape == x.shape
    alone = min(spans(side, SIZE, OVERLAP)[1].start for side in (height, width))  # covered by the first tile only
    expected = network(x[..., :SIZE, :SIZE], times, conditioning)[..., :alone, :alone]
    torch.testing.assert_close(whole[..., :alone, :alone], expected, rtol=1e-4, atol=1e-4)


@lru_cache
def shipped() -> Model:
    return loaded(ModelFiles(checkpoint=open_safetensors(SHIPPED)))


@torch.inference_mode()
def picture(tiles: int, overlap: int, *, width: int, height: int = 24) -> Tensor:
    """[3, H, W] in -1..1 of a picture that the small model makes in tiles of so many latent pixels."""
    model, levels = shipped(), shipped().levels(128, 128, None)
    texts = [told(model, text, 8 * width, 8 * height) for text in ("red apple, flat icon", "")]
    network: ConditionedNetwork = tiled_network(model.network([]), tiles, overlap, tiles_per_call=4)
    guided = classifier_free(network, texts[0], texts[1], 4.0)
    sigmas = [levels.sigma_max * (1 - step / 8) ** 3 for step in range(9)]
    noise = BatchNoise([3], (4, height, width), NOISES[0])
    denoise = denoiser(guided, model.prediction, levels)
    x0 = euler(denoise, noise() * sigmas[0], sigmas, model.process, noise)
    return model.decode(x0)[0]


def test_there_are_no_borders_where_tiles_of_the_small_model_end() -> None:
    """What changes there from one column of pixels to the next is no more than at other borders of latent pixels."""
    width, tile, overlap = 48, 16, 8
    made = picture(tile, overlap, width=width)
    changes = made.diff(dim=-1).abs().mean((0, 1))  # [W - 1], from column k to k + 1
    ends = {edge for span in spans(width, tile, overlap) for edge in (span.start, span.stop)} - {0, width}
    assert len(ends) == 5
    at_ends = changes[[8 * place - 1 for place in sorted(ends)]]
    elsewhere = changes[[8 * place - 1 for place in range(1, width) if place not in ends]]
    assert at_ends.max() <= elsewhere.quantile(0.95)
