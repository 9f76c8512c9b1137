"""Pictures that are encoded and decoded in tiles: no borders, and the colours of the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from backend.errors import NumericalError
from backend.families.autoencoder_files import autoencoder_of
from backend.families.family import Machine, ModelFiles
from backend.families.latent_space import LatentScaling, LatentSpace
from backend.families.notices import Notices
from backend.families.unet_shapes import autoencoder_config_from
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.residency import Residency
from backend.nn.autoencoder import Autoencoder, AutoencoderConfig
from backend.nn.tiled_autoencoder import decode_tiled, decoding_reach, encode_tiled, encoding_reach
from backend.tile_boxes import spans
from backend.weights.safetensors_file import open_safetensors
from backend.weights.source import InMemory
from tests.reference_weights import with_random_weights
from tests.tiny_transformers import machine

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "models" / "checkpoints" / "emulsion-tiny-v1.safetensors"
NARROW = AutoencoderConfig(channels=8, channel_mult=(1, 1, 2, 2), num_res_blocks=1, norm_groups=2)
TILE = 24  # latent pixels


@pytest.fixture(scope="module")
def shipped() -> Autoencoder:
    source = autoencoder_of(ModelFiles(checkpoint=open_safetensors(SHIPPED)))
    network = Autoencoder(autoencoder_config_from(source, norm_groups=4))
    network.load_state_dict({key: source.read(key).float() for key in source.keys()})
    network.eval().requires_grad_(False)
    return network


@pytest.fixture(scope="module")
def narrow() -> Autoencoder:
    torch.manual_seed(0)
    network = Autoencoder(NARROW)
    with_random_weights(network).eval().requires_grad_(False)
    return network


def picture() -> Tensor:
    """[1, 3, 160, 256] in -1..1: half of it drawings, half of it nearly nothing, which tiles alone would show."""
    sheet = Image.open(ROOT / "docs" / "images" / "small-model.png").convert("RGB").crop((0, 0, 256, 160))
    pixels = torch.from_numpy(np.array(sheet)).permute(2, 0, 1)[None].float() / 127.5 - 1
    pixels[..., 128:] = torch.linspace(-0.9, -0.7, 160)[:, None]
    return pixels


def seams(length: int, reach: int) -> list[int]:
    """Where one tile ends and the next begins, in latent pixels."""
    found = spans(length, TILE, 2 * reach)
    return [(one.stop + other.start) // 2 for one, other in pairwise(found)]


def jumps(difference: Tensor, unit: int, reach: int) -> tuple[Tensor, Tensor]:
    """How much a difference [1, C, H, W] to the whole picture changes from column to column: at seams, elsewhere."""
    changes = difference.diff(dim=-1).abs().amax((0, 1, 2))
    at = [unit * seam - 1 for seam in seams(difference.shape[-1] // unit, reach)]
    assert at
    elsewhere = torch.ones(len(changes), dtype=torch.bool)
    elsewhere[at] = False
    return changes[at], changes[elsewhere]


def test_decoded_tiles_of_the_small_model_have_no_seams_and_the_colours_of_the_whole(shipped: Autoencoder) -> None:
    latents = shipped.encode(picture())[0]
    difference = (decode_tiled(shipped, latents, TILE) - shipped.decode(latents)) * 127.5
    at_seams, elsewhere = jumps(difference, 8, decoding_reach(shipped.config))
    assert at_seams.max() <= elsewhere.max()
    assert float(difference.abs().mean()) < 1.5  # of 255
    assert float(difference.abs().max()) < 10


def test_encoded_tiles_of_the_small_model_have_no_seams(shipped: Autoencoder) -> None:
    whole = shipped.encode(picture())[0]
    difference = (encode_tiled(shipped, picture(), TILE) - whole) / whole.std()
    at_seams, elsewhere = jumps(difference, 1, encoding_reach(shipped.config))
    assert at_seams.max() <= elsewhere.max()
    assert float(difference.abs().mean()) < 0.02


@pytest.mark.parametrize("tile", [16, 24])
def test_a_random_network_makes_of_tiles_what_it_makes_of_the_whole(narrow: Autoencoder, tile: int) -> None:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 26, 33, generator=generator)
    whole = narrow.decode(latents)
    decoded = decode_tiled(narrow, latents, tile)
    assert float((decoded - whole).abs().max()) < 0.03 * float(whole.std())
    image = torch.rand(1, 3, 208, 264, generator=generator) * 2 - 1
    whole = narrow.encode(image)[0]
    encoded = encode_tiled(narrow, image, tile)
    assert float((encoded - whole).abs().max()) < 0.03 * float(whole.std())


def test_one_tile_is_the_whole_picture(narrow: Autoencoder) -> None:
    latents = torch.randn(1, 4, 14, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(decode_tiled(narrow, latents, 32), narrow.decode(latents), rtol=1e-4, atol=1e-5)


def test_tiles_reach_as_far_as_the_network_looks(narrow: Autoencoder) -> None:
    """What lies further away changes only the statistics of the picture; with those given it changes nothing."""
    full = AutoencoderConfig()
    assert (decoding_reach(full), encoding_reach(full)) == (7, 6)
    latents = torch.randn(1, 4, 40, 40, generator=torch.Generator().manual_seed(1)).requires_grad_()
    reach = decoding_reach(NARROW)
    features = narrow.decoder.coarse(narrow.post_quant_conv(latents)).detach().requires_grad_()
    narrow.decoder.fine(features, lambda norm, x: 0.3 * x)[..., 160:168, 160:168].sum().backward()
    assert features.grad is not None
    seen = features.grad.abs().sum((0, 1)).nonzero()
    assert int(seen.min()) >= 20 - reach
    assert int(seen.max()) <= 20 + reach


def test_tiles_that_are_smaller_than_what_is_seen_are_refused(narrow: Autoencoder) -> None:
    with pytest.raises(ValueError, match="cannot overlap"):
        decode_tiled(narrow, torch.randn(1, 4, 40, 40), 2 * decoding_reach(NARROW))


def latent_space(weights: Mapping[str, Tensor], on: Machine) -> LatentSpace:
    return LatentSpace(
        InMemory(dict(weights)), on, LatentScaling(factor=(1.0,)), channels=4, family_label="a model", norm_groups=2
    )


def with_memory(budget: int) -> LatentSpace:
    torch.manual_seed(0)
    weights = with_random_weights(Autoencoder(NARROW)).state_dict()
    return latent_space(weights, dataclasses.replace(machine(), residency=Residency(budget, small=0)))


@torch.inference_mode()
def test_with_little_memory_both_ways_go_in_tiles_that_were_planned() -> None:
    ample = with_memory(2**30)
    whole_plans = ample.decoding_plan(512, 512), ample.encoding_plan(512, 512)
    assert [plan.tiles for plan in whole_plans] == [1, 1]
    budget = int(0.9 * min(plan.working_bytes for plan in whole_plans))
    short = with_memory(budget)
    plans = short.decoding_plan(512, 512), short.encoding_plan(512, 512)
    assert all(plan.tiles > 1 for plan in plans)
    assert all(plan.placement.num_bytes + plan.working_bytes <= budget for plan in plans)
    latents = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    whole = ample.decode(latents)
    assert float((short.decode(latents) - whole).abs().max()) < 0.03 * float(whole.std())
    image = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(1)) * 2 - 1
    encoded = ample.encode(image)
    assert float((short.encode(image) - encoded).abs().max()) < 0.03 * float(encoded.std())


def overflowing(notices: Notices, *, is_broken: bool = False) -> LatentSpace:
    """Of a network that overflows in float16, and in float32 too when it is broken."""
    half = DtypePolicy(unet=torch.float16, text_encoder=torch.float16, autoencoder=torch.float16)
    torch.manual_seed(0)
    weights = with_random_weights(Autoencoder(NARROW)).state_dict()
    for key in ("decoder.conv_in.weight", "encoder.conv_in.weight"):
        weights[key] = weights[key] * (float("nan") if is_broken else 1e6)
    return latent_space(weights, dataclasses.replace(machine(), policy=half, notices=notices))


def test_what_overflows_in_half_precision_comes_out_in_float32_and_the_user_is_told_once_of_each() -> None:
    notices, heard = Notices(), list[str]()
    space, latents, image = overflowing(notices), torch.randn(1, 4, 8, 8), torch.rand(1, 3, 64, 64)
    with notices.told_to(heard.append):
        for _ in range(2):
            assert space.decode(latents).isfinite().all()
            assert space.encode(image).isfinite().all()
    assert ["latents of a picture" in text for text in heard] == [False, True]
    assert all("float16" in text and "float32" in text for text in heard)
    space.decode(latents)
    assert len(heard) == 2  # nobody listens any more


def test_what_is_no_number_in_float32_either_is_a_typed_error() -> None:
    space = overflowing(Notices(), is_broken=True)
    with pytest.raises(NumericalError, match="autoencoder's picture"):
        space.decode(torch.randn(1, 4, 8, 8))
    with pytest.raises(NumericalError, match="autoencoder's latents"):
        space.encode(torch.rand(1, 3, 64, 64))
