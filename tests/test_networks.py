"""The networks compute what the reference implementations compute, from the same random weights."""

import dataclasses

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


def diffusers_unet(unet: UNet) -> nn.Module:
    """diffusers' network of the same configuration and with the same weights."""
    ours = unet.config
    levels = [bool(depth) for depth in ours.transformer_depth]
    config = {
        "in_channels": ours.in_channels,
        "out_channels": ours.out_channels,
        "block_out_channels": tuple(mult * ours.model_channels for mult in ours.channel_mult),
        "layers_per_block": ours.num_res_blocks,
        "down_block_types": tuple("CrossAttnDownBlock2D" if level else "DownBlock2D" for level in levels),
        "up_block_types": tuple("CrossAttnUpBlock2D" if level else "UpBlock2D" for level in reversed(levels)),
        "cross_attention_dim": ours.context_dim,
        # What diffusers calls the width of a head is their number.
        "attention_head_dim": tuple(ours.heads(mult * ours.model_channels) for mult in ours.channel_mult),
        "norm_num_groups": ours.norm_groups,
        "use_linear_projection": ours.linear_projections,
    }
    reference = UNet2DConditionModel(**config).eval()
    weights = {f"model.diffusion_model.{key}": value for key, value in unet.state_dict().items()}
    reference.load_state_dict(convert_ldm_unet_checkpoint(weights, config))
    return reference


@pytest.fixture(scope="module")
def reference_unet(unet: UNet) -> nn.Module:
    return diffusers_unet(unet)


def diffusers_autoencoder(autoencoder: Autoencoder) -> nn.Module:
    ours = autoencoder.config
    config = {
        "block_out_channels": tuple(mult * ours.channels for mult in ours.channel_mult),
        "layers_per_block": ours.num_res_blocks,
        "latent_channels": ours.latent_channels,
        "norm_num_groups": ours.norm_groups,
        "down_block_types": ("DownEncoderBlock2D",) * len(ours.channel_mult),
        "up_block_types": ("UpDecoderBlock2D",) * len(ours.channel_mult),
    }
    reference = AutoencoderKL(**config).eval()
    weights = {f"first_stage_model.{key}": value for key, value in autoencoder.state_dict().items()}
    reference.load_state_dict(convert_ldm_vae_checkpoint(weights, config))
    return reference


@pytest.fixture(scope="module")
def reference_autoencoder(autoencoder: Autoencoder) -> nn.Module:
    return diffusers_autoencoder(autoencoder)


@torch.no_grad()
def test_unet_equals_diffusers(unet, reference_unet):
    x, context = torch.randn(2, 4, 16, 24), torch.randn(2, 11, 24)
    timesteps = torch.tensor([999.0, 12.5])
    assert relative_error(unet(x, timesteps, context), reference_unet(x, timesteps, context).sample) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {"in_channels": 8},
        {"in_channels": 9},
        {"linear_projections": True, "num_heads": None, "head_dim": 8},
        {"channel_mult": (1, 2), "transformer_depth": (1, 0), "num_res_blocks": 1},
        {"model_channels": 24, "channel_mult": (1, 1, 3), "transformer_depth": (0, 1, 1), "num_heads": 2},
        {"model_channels": 16, "channel_mult": (1, 2, 2, 2), "context_dim": 40, "norm_groups": 4, "num_heads": 1},
    ],
    ids=["InstructPix2Pix", "inpainting", "SD 2", "shallow", "no attention at the top", "narrow"],
)
def test_unets_of_other_shapes_equal_diffusers(changes):
    config = dataclasses.replace(UNET, **changes)
    unet = with_random_weights(UNet(config))
    x, context = torch.randn(2, config.in_channels, 16, 8), torch.randn(2, 5, config.context_dim)
    timesteps = torch.tensor([3.0, 801.0])
    expected = diffusers_unet(unet)(x, timesteps, context).sample
    assert relative_error(unet(x, timesteps, context), expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 17), (9, 23), (1, 8)])
def test_unet_takes_latents_whose_sides_are_no_multiple_of_eight_as_diffusers_does(unet, reference_unet, size):
    x, context, timesteps = torch.randn(1, 4, *size), torch.randn(1, 5, 24), torch.tensor([500.0])
    assert relative_error(unet(x, timesteps, context), reference_unet(x, timesteps, context).sample) < 1e-5


@torch.no_grad()
def test_unet_of_channels_last_weights_equals_contiguous(unet):
    x, context, timesteps = torch.randn(1, 4, 16, 16), torch.randn(1, 5, 24), torch.tensor([500.0])
    expected = unet(x, timesteps, context)
    twin = with_random_weights(UNet(UNET)).to(memory_format=torch.channels_last)
    assert relative_error(twin(x.to(memory_format=torch.channels_last), timesteps, context), expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=str)
def test_networks_compute_in_float32_from_half_precision_weights_what_they_do_from_widened_ones(stored):
    x, context, timesteps = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 24), torch.tensor([500.0, 3.0])
    narrow, wide = (with_random_weights(UNet(UNET)).to(stored) for _ in range(2))
    wide.float()
    assert relative_error(narrow(x, timesteps, context), wide(x, timesteps, context)) < 1e-5
    narrow, wide = (with_random_weights(Autoencoder(AUTOENCODER)).to(stored) for _ in range(2))
    wide.float()
    assert relative_error(narrow.decode(x), wide.decode(x)) < 1e-5
    image = torch.randn(1, 3, 32, 32)
    assert relative_error(narrow.encode(image)[0], wide.encode(image)[0]) < 1e-5


@torch.no_grad()
def test_networks_change_nothing_that_they_are_given(unet, autoencoder):
    x, context, timesteps = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 24), torch.tensor([500.0])
    image = torch.randn(1, 3, 32, 32)
    given = [x, context, timesteps, image]
    before = [tensor.clone() for tensor in given]
    unet(x, timesteps, context)
    autoencoder.decode(x)
    autoencoder.encode(image)
    assert all(map(torch.equal, given, before))


def test_gradients_are_those_of_diffusers(unet, reference_unet):
    context, timesteps = torch.randn(1, 5, 24), torch.tensor([500.0])
    x, twin = (torch.ones(1, 4, 16, 16, requires_grad=True) for _ in range(2))
    ours = torch.autograd.grad(unet(x, timesteps, context).square().sum(), x)[0]
    theirs = torch.autograd.grad(reference_unet(twin, timesteps, context).sample.square().sum(), twin)[0]
    assert relative_error(ours, theirs) < 1e-4


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
def test_autoencoder_of_other_shapes_equals_diffusers_at_sizes_of_many_pixels_channels_last():
    """Where PyTorch's own group norm leaves five digits."""
    config = AutoencoderConfig(channels=8, channel_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=4)
    ours = with_random_weights(Autoencoder(config))
    reference = diffusers_autoencoder(ours)
    latents = torch.randn(1, 4, 64, 64)
    ours.to(memory_format=torch.channels_last)
    expected = reference.decode(latents).sample
    assert relative_error(ours.decode(latents.to(memory_format=torch.channels_last)), expected) < 1e-5


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
