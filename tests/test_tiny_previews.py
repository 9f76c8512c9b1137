"""TAESD: what it shows, where its files are found, and what happens when they are no good."""

from __future__ import annotations

import dataclasses
import logging
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor

from backend.engine.converted_pickles import ConvertedPickles
from backend.families.latent_space import LatentScaling, LatentSpace
from backend.families.tiny_decoders import TAEF1, TAESD, TAESDXL, TinyDecoders, TinyPreview, tiny_decoder
from backend.nn.autoencoder import Autoencoder, AutoencoderConfig
from backend.nn.tiny_autoencoder import TinyDecoder
from backend.weights.hashing import sha256_of
from backend.weights.safetensors_file import open_safetensors, write_safetensors
from backend.weights.source import InMemory
from tests.reference_weights import relative_error, with_random_weights
from tests.tiny_transformers import machine


@pytest.fixture(scope="module")
def reference() -> AutoencoderTiny:
    torch.manual_seed(0)
    network = AutoencoderTiny()
    with_random_weights(network)
    return network


def published(reference: AutoencoderTiny, prefix: str = "") -> dict[str, Tensor]:
    """The decoder's weights as the files of its author name them."""
    found: dict[str, Tensor] = {}
    for key, value in reference.decoder.state_dict().items():
        number, rest = key.removeprefix("layers.").split(".", 1)
        found[f"{prefix}{int(number) + 1}.{rest}"] = value
    return found


@torch.no_grad()
@pytest.mark.parametrize("layout", ["decoder alone", "both halves", "diffusers"])
def test_files_of_every_layout_decode_to_what_diffusers_does(reference: AutoencoderTiny, layout: str) -> None:
    tensors = {
        "decoder alone": published(reference),
        "both halves": published(reference, "decoder.") | {"encoder.0.weight": torch.zeros(64, 3, 3, 3)},
        "diffusers": dict(reference.state_dict()),
    }[layout]
    latents = 2 * torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(1))
    (decoded,) = reference.decode(latents, return_dict=False)
    expected = (decoded + 1) / 2
    assert relative_error(tiny_decoder(InMemory(tensors), 4)(latents), expected) < 1e-5


def written(folder: Path, name: str, channels: int = 4) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    weights = {key: value.half() for key, value in with_random_weights(TinyDecoder(channels)).state_dict().items()}
    if path.suffix == ".pth":
        torch.save(weights, path)
    else:
        write_safetensors(path, weights, {})
    return path


def test_files_are_found_by_their_names_and_each_is_for_its_own_latents(tmp_path: Path) -> None:
    decoders = TinyDecoders([tmp_path / "missing", tmp_path], open_safetensors)
    assert decoders.find(TAESD) is None
    written(tmp_path, "taesdxl_decoder.safetensors")
    assert decoders.find(TAESD) is None
    assert decoders.find(TAESDXL) is not None
    written(tmp_path / "taesd", "diffusion_pytorch_model.safetensors")
    first = decoders.find(TAESD)
    assert first is not None
    assert decoders.find(TAESD) is first
    written(tmp_path, "flux/TAEF1_decoder.safetensors", channels=16)
    assert decoders.find(TAEF1) is not None


def test_published_pickles_are_converted(tmp_path: Path) -> None:
    written(tmp_path / "vae_approx", "taesd_decoder.pth")
    pickles = ConvertedPickles(tmp_path / "converted")
    decoders = TinyDecoders([tmp_path / "vae_approx"], lambda path: pickles.open(path, sha256_of(path)))
    assert decoders.find(TAESD) is not None


def test_a_file_that_is_no_good_is_told_in_the_log_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path, "taesd_decoder.safetensors", channels=16)
    (tmp_path / "taesdxl.safetensors").write_bytes(b"nothing")
    decoders = TinyDecoders([tmp_path], open_safetensors)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert decoders.find(TAESD) is None
            assert decoders.find(TAESDXL) is None
    texts = [record.getMessage() for record in caplog.records]
    assert ["taesd_decoder.safetensors" in text for text in texts] == [True, False]
    assert "mis-shaped" in texts[0]


def space(folder: Path, scaling: LatentScaling, config: AutoencoderConfig) -> LatentSpace:
    """Of an autoencoder that is too large to be made here, by its names and shapes."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in Autoencoder(config).state_dict().items()}
    weights = {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}
    on = dataclasses.replace(machine(), tiny_decoders=TinyDecoders([folder], open_safetensors))
    return LatentSpace(InMemory(weights), on, scaling, channels=config.latent_channels, family_label="a model")


def test_latents_are_shown_by_the_file_for_them(tmp_path: Path) -> None:
    written(tmp_path, "taesd_decoder.safetensors")
    written(tmp_path, "taef1_decoder.safetensors", channels=16)
    latents = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    look = space(tmp_path, LatentScaling(factor=(0.18215,)), AutoencoderConfig()).preview()
    assert isinstance(look, TinyPreview)
    torch.testing.assert_close(look.rgb(latents), look.decoder(latents))
    flux = AutoencoderConfig(latent_channels=16, has_quant_conv=False)
    look = space(tmp_path, LatentScaling(factor=(0.3611,), shift=(0.1159,)), flux).preview()
    assert look.rgb(torch.zeros(1, 16, 4, 6)).shape == (1, 3, 32, 48)


def test_latents_with_another_scaling_of_the_same_autoencoder_are_brought_to_that_of_the_file(tmp_path: Path) -> None:
    written(tmp_path, "taesdxl_decoder.safetensors")
    usual = space(tmp_path, LatentScaling(factor=(0.13025,)), AutoencoderConfig()).preview()
    channelwise = LatentScaling(factor=(0.5, 0.4, 0.3, 0.2), shift=(1.0, 2.0, 3.0, 4.0))
    other = space(tmp_path, channelwise, AutoencoderConfig()).preview()
    own = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))  # the autoencoder's
    torch.testing.assert_close(
        other.rgb(channelwise.from_autoencoder(own)), usual.rgb(0.13025 * own), rtol=1e-3, atol=1e-4
    )


@torch.no_grad()
def test_large_pictures_are_shown_at_the_size_of_a_preview_and_latents_stay_as_they_are() -> None:
    preview = TinyPreview(decoder=TinyDecoder(4), to_tiny=partial(torch.mul, other=1.0))
    latents = torch.randn(2, 4, 40, 64, generator=torch.Generator().manual_seed(1))
    before = latents.clone()
    assert preview.rgb(latents).shape == (2, 3, 160, 256)
    assert torch.equal(latents, before)
