"""The networks compute what the reference implementations compute, from the same random weights."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from torch import Tensor, nn

from backend.nn.attention import AttentionPlace, attention
from backend.nn.autoencoder import Autoencoder, AutoencoderConfig, decode_sliced, decode_tiled
from backend.nn.unet import UNet, UNetConfig

UNET = UNetConfig(model_channels=32, context_dim=24, num_heads=4, norm_groups=8)
AUTOENCODER = AutoencoderConfig(channels=16, norm_groups=4)


def with_random_weights(module: nn.Module) -> nn.Module:
    """Weights of about the spread that keeps activations near 1, so that relative errors mean something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 0.1 if parameter.dim() < 2 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
            if parameter.dim() < 2:
                parameter.add_(0.5)
    return module.eval().requires_grad_(False)


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).abs().max() / reference.abs().max())


@pytest.fixture(scope="module")
def unet() -> UNet:
    return with_random_weights(UNet(UNET))


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    return with_random_weights(Autoencoder(AUTOENCODER))


@pytest.fixture(scope="module")
def reference_unet(unet: UNet) -> nn.Module:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64, 128, 128),
        "layers_per_block": 2,
        "cross_attention_dim": 24,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    reference = UNet2DConditionModel(**config).eval()
    weights = {f"model.diffusion_model.{key}": value for key, value in unet.state_dict().items()}
    reference.load_state_dict(convert_ldm_unet_checkpoint(weights, {**config, "use_linear_projection": False}))
    return reference


@pytest.fixture(scope="module")
def reference_autoencoder(autoencoder: Autoencoder) -> nn.Module:
    config = {
        "block_out_channels": (16, 32, 64, 64),
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    reference = AutoencoderKL(**config).eval()
    weights = {f"first_stage_model.{key}": value for key, value in autoencoder.state_dict().items()}
    reference.load_state_dict(convert_ldm_vae_checkpoint(weights, config))
    return reference


@torch.no_grad()
def test_unet_equals_diffusers(unet, reference_unet):
    x, context = torch.randn(2, 4, 16, 24), torch.randn(2, 11, 24)
    timesteps = torch.tensor([999.0, 12.5])
    assert relative_error(unet(x, timesteps, context), reference_unet(x, timesteps, context).sample) < 1e-5


@torch.no_grad()
def test_unet_of_channels_last_weights_equals_contiguous(unet):
    x, context, timesteps = torch.randn(1, 4, 16, 16), torch.randn(1, 5, 24), torch.tensor([500.0])
    expected = unet(x, timesteps, context)
    twin = with_random_weights(UNet(UNET)).to(memory_format=torch.channels_last)
    assert relative_error(twin(x.to(memory_format=torch.channels_last), timesteps, context), expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 17), (9, 23)])
def test_unet_takes_latents_whose_sides_are_no_multiple_of_eight(unet, size):
    x = torch.randn(1, 4, *size)
    assert unet(x, torch.tensor([500.0]), torch.randn(1, 5, 24)).shape == x.shape


@torch.no_grad()
def test_unet_rows_of_a_batch_do_not_see_each_other(unet):
    x, context, timesteps = torch.randn(3, 4, 8, 8), torch.randn(3, 5, 24), torch.tensor([900.0, 500.0, 10.0])
    together = unet(x, timesteps, context)
    alone = torch.cat([unet(x[i : i + 1], timesteps[i : i + 1], context[i : i + 1]) for i in range(3)])
    assert relative_error(together, alone) < 1e-5


@torch.no_grad()
def test_every_attention_goes_through_the_hook(unet):
    places: list[AttentionPlace] = []

    def recording(q: Tensor, k: Tensor, v: Tensor, place: AttentionPlace) -> Tensor:
        places.append(place)
        return attention(q, k, v, place)

    x, context, timesteps = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 24), torch.tensor([500.0])
    hooked = unet(x, timesteps, context, attend=recording)
    assert torch.equal(hooked, unet(x, timesteps, context))
    assert len(places) == len(set(places)) == 32
    assert sum(place.is_cross for place in places) == 16


def test_full_size_networks_have_the_published_number_of_parameters():
    with torch.device("meta"):
        unet, autoencoder = UNet(UNetConfig()), Autoencoder(AutoencoderConfig())
    assert (len(unet.state_dict()), sum(p.numel() for p in unet.parameters())) == (686, 859_520_964)
    assert (len(autoencoder.state_dict()), sum(p.numel() for p in autoencoder.parameters())) == (248, 83_653_863)


@torch.no_grad()
def test_autoencoder_equals_diffusers(autoencoder, reference_autoencoder):
    image, latents = torch.rand(2, 3, 48, 64) * 2 - 1, torch.randn(2, 4, 6, 8)
    expected = reference_autoencoder.encode(image).latent_dist
    mean, logvar = autoencoder.encode(image)
    assert relative_error(mean, expected.mean) < 1e-5
    assert relative_error(logvar, expected.logvar) < 1e-5
    assert relative_error(autoencoder.decode(latents), reference_autoencoder.decode(latents).sample) < 1e-5


@torch.no_grad()
def test_slices_decode_to_the_same_picture(autoencoder):
    latents = torch.randn(3, 4, 6, 8)
    assert relative_error(decode_sliced(autoencoder, latents), autoencoder.decode(latents)) < 1e-5


@torch.no_grad()
def test_one_tile_is_the_whole_picture_and_many_tiles_are_close(autoencoder):
    latents = torch.randn(1, 4, 20, 28)
    whole = autoencoder.decode(latents)
    assert relative_error(decode_tiled(autoencoder, latents, tile=32, overlap=8), whole) < 1e-5
    tiled = decode_tiled(autoencoder, latents, tile=16, overlap=8)
    assert tiled.shape == whole.shape
    assert float((tiled - whole).abs().mean()) < 0.15 * float(whole.std())


def test_tiles_cannot_overlap_completely(autoencoder):
    with pytest.raises(ValueError, match="overlap"):
        decode_tiled(autoencoder, torch.randn(1, 4, 8, 8), tile=4, overlap=4)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [77, 300, 2100])
def test_attention_in_bfloat16_is_as_close_to_float32_as_the_fused_kernel(tokens):
    q, k, v = (torch.randn(2, 3, tokens, 40) for _ in range(3))
    place = AttentionPlace("test", is_cross=False)
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    low = [t.bfloat16() for t in (q, k, v)]
    ours = attention(*low, place).float()
    fused = torch.nn.functional.scaled_dot_product_attention(*low).float()
    assert (ours - exact).std() < 2.5 * (fused - exact).std()
    assert (ours - exact).std() < 0.02 * exact.std()
