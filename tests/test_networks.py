"""The networks compute what the reference implementations compute, from the same random weights."""

import dataclasses

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from torch import Tensor, nn

from backend.families.diffusers_layout import autoencoder_in_ldm_layout, unet_in_ldm_layout
from backend.families.unet_shapes import autoencoder_config_from, unet_config_from
from backend.nn.attention import AttentionPlace, attention
from backend.nn.autoencoder import Autoencoder, AutoencoderConfig, decode_sliced
from backend.nn.unet import UNet, UNetConfig, timestep_embedding, used_once
from backend.weights.source import InMemory
from tests.reference_weights import relative_error, with_random_weights

UNET = UNetConfig(model_channels=32, context_dim=24, num_heads=4, norm_groups=8)
AUTOENCODER = AutoencoderConfig(channels=16, norm_groups=4)


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


# Networks of diffusers' layout: their names are translated, their configuration is read, and both compute the same.

ATTENTION = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
SDXL_LIKE = {
    "block_out_channels": (16, 32, 32),
    "down_block_types": ("DownBlock2D", *ATTENTION[:1] * 2),
    "up_block_types": (*ATTENTION[1:] * 2, "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 3),
    "cross_attention_dim": 24,
    "attention_head_dim": (2, 4, 4),
    "norm_num_groups": 8,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 10 + 6 * 8,
}
SSD_LIKE = {
    "transformer_layers_per_block": (1, (2, 2), (4, 4)),
    "reverse_transformer_layers_per_block": ((4, 4, 5), (2, 1, 1), 1),
    "mid_block_type": "UNetMidBlock2D",
}
DIFFUSERS_UNETS = {
    "SDXL": SDXL_LIKE,
    "SSD-1B": SDXL_LIKE | SSD_LIKE,
    "KOALA": SDXL_LIKE | {"layers_per_block": 1, "transformer_layers_per_block": (1, 2, 3), "mid_block_type": None},
    "BK-SDM": {
        "block_out_channels": (16, 32, 32),
        "down_block_types": ATTENTION[:1] * 3,
        "up_block_types": ATTENTION[1:] * 3,
        "layers_per_block": 1,
        "mid_block_type": None,
        "cross_attention_dim": 24,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    },
    "LCM": {
        "block_out_channels": (16, 32),
        "down_block_types": (*ATTENTION[:1], "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *ATTENTION[1:]),
        "cross_attention_dim": 24,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
        "time_cond_proj_dim": 32,
    },
}


def random_weights(module: nn.Module) -> InMemory:
    return InMemory(dict(with_random_weights(module).state_dict()))


def loaded_unet(reference: nn.Module, *, norm_groups: int, num_heads: int | None, head_dim: int | None) -> UNet:
    source = unet_in_ldm_layout(random_weights(reference))
    config = unet_config_from(source, num_heads=num_heads, head_dim=head_dim, norm_groups=norm_groups)
    unet = UNet(config)
    unet.load_state_dict({key: source.read(key) for key in source.keys()})
    return unet.eval().requires_grad_(False)


@torch.no_grad()
@pytest.mark.parametrize("name", DIFFUSERS_UNETS)
def test_unets_in_diffusers_layout_compute_what_diffusers_does(name):
    settings = DIFFUSERS_UNETS[name]
    reference = UNet2DConditionModel(**settings)
    has_vector = "addition_embed_type" in settings
    heads = (None, 8) if has_vector else (4, None)
    unet = loaded_unet(reference, norm_groups=8, num_heads=heads[0], head_dim=heads[1])

    x, context, timesteps = torch.randn(2, 4, 16, 8), torch.randn(2, 5, 24), torch.tensor([3.0, 801.0])
    pooled, sizes = torch.randn(2, 10), torch.randint(0, 1024, (2, 6)).float()
    y = torch.cat([pooled, timestep_embedding(sizes.flatten(), 8).view(2, -1)], dim=1) if has_vector else None
    scales = torch.tensor([1.0, 8.5]) if name == "LCM" else None
    told = None if scales is None else StableDiffusionPipeline.get_guidance_scale_embedding(None, scales - 1, 32)

    added = {"text_embeds": pooled, "time_ids": sizes} if has_vector else None
    expected = reference(x, timesteps, context, timestep_cond=told, added_cond_kwargs=added).sample
    assert relative_error(unet(x, timesteps, context, y, guidance=scales), expected) < 1e-5


def test_the_blocks_of_pruned_networks_are_read_off_their_names():
    unet = loaded_unet(UNet2DConditionModel(**DIFFUSERS_UNETS["SSD-1B"]), norm_groups=8, num_heads=None, head_dim=8)
    assert unet.config.input_depths == (0, 0, 2, 2, 4, 4)
    assert unet.config.output_depths == (4, 4, 5, 2, 1, 1, 0, 0, 0)
    assert (unet.config.middle_res_blocks, unet.config.middle_depth) == (1, 0)
    unet = loaded_unet(UNet2DConditionModel(**DIFFUSERS_UNETS["KOALA"]), norm_groups=8, num_heads=None, head_dim=8)
    assert (unet.config.num_res_blocks, unet.config.transformer_depth) == (1, (0, 2, 3))
    assert (unet.config.input_depths, unet.config.middle_res_blocks, unet.config.middle_depth) == (None, 0, 0)


# Keys and values of a context


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("images", [2, 6], ids=["an image a group", "three images a group"])
def test_keys_and_values_computed_once_give_the_same_to_the_bit(dtype, images):
    unet = with_random_weights(UNet(UNET)).to(dtype)
    context = torch.randn(2, 11, 24, dtype=dtype)
    kept = unet.keys_values(context)
    for name in used_once(unet.state_dict()):
        unet.get_submodule(name).to("meta")  # a forward that used one of them would fail

    x, timesteps = torch.randn(images, 4, 8, 8, dtype=dtype), torch.linspace(1, 999, images)
    plain = with_random_weights(UNet(UNET)).to(dtype)(x, timesteps, context)
    assert torch.equal(unet(x, timesteps, kept), plain)


def test_layers_that_run_once_are_those_of_cross_attention(unet):
    names = used_once(unet.state_dict())
    assert len(names) == len(set(names)) == 32
    assert all(unet.get_submodule(name).in_features == UNET.context_dim for name in names)


@torch.no_grad()
def test_a_group_of_conditioning_is_for_consecutive_images():
    unet = with_random_weights(UNet(dataclasses.replace(UNET, adm_in_channels=6, guidance_width=16)))
    x, timesteps = torch.randn(4, 4, 8, 8), torch.full((4,), 500.0)
    context, y, scale = torch.randn(2, 5, 24), torch.randn(2, 6), torch.tensor([2.0, 8.0])
    grouped = unet(x, timesteps, context, y, guidance=scale)
    each = unet(x, timesteps, context[[0, 0, 1, 1]], y[[0, 0, 1, 1]], guidance=scale[[0, 0, 1, 1]])
    assert relative_error(grouped, each) < 1e-5
    assert relative_error(unet(x, timesteps, context, y, guidance=scale + 1), grouped) > 1e-3


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
@pytest.mark.parametrize("has_quant_conv", [True, False], ids=["SD", "SD 3 and FLUX"])
@pytest.mark.parametrize("old_names", [False, True], ids=["names of today", "names of 2022"])
def test_autoencoders_in_diffusers_layout_compute_what_diffusers_does(has_quant_conv, old_names):
    settings = {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "latent_channels": 16,
        "norm_num_groups": 4,
        "use_quant_conv": has_quant_conv,
        "use_post_quant_conv": has_quant_conv,
    }
    reference = AutoencoderKL(**settings)
    weights = random_weights(reference)
    if old_names:
        weights = InMemory({name_of_2022(key): weights.read(key) for key in weights.keys()})
    source = autoencoder_in_ldm_layout(weights)
    config = autoencoder_config_from(source, norm_groups=4)
    assert (config.latent_channels, config.has_quant_conv, config.downscale) == (16, has_quant_conv, 4)
    ours = Autoencoder(config)
    into = {key: torch.empty(source.spec(key).shape) for key in source.keys()}
    for key, room in into.items():
        source.read_into(key, room)
        assert torch.equal(room, source.read(key))
    ours.load_state_dict(into)

    image, latents = torch.rand(1, 3, 16, 24) * 2 - 1, torch.randn(1, 16, 4, 6)
    assert relative_error(ours.encode(image)[0], reference.encode(image).latent_dist.mean) < 1e-5
    assert relative_error(ours.decode(latents), reference.decode(latents).sample) < 1e-5


def name_of_2022(key: str) -> str:
    for new, old in (("to_q.", "query."), ("to_k.", "key."), ("to_v.", "value."), ("to_out.0.", "proj_attn.")):
        key = key.replace(f"attentions.0.{new}", f"attentions.0.{old}")
    return key


@torch.no_grad()
def test_autoencoder_of_other_shapes_equals_diffusers_at_sizes_of_many_pixels_channels_last():
    """Where PyTorch's own group norm leaves five digits."""
    config = AutoencoderConfig(channels=8, channel_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=4)
    ours = with_random_weights(Autoencoder(config))
    reference = diffusers_autoencoder(ours)
    latents = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    ours.to(memory_format=torch.channels_last)
    expected = reference.decode(latents).sample
    assert relative_error(ours.decode(latents.to(memory_format=torch.channels_last)), expected) < 1e-5


@torch.no_grad()
def test_slices_decode_to_the_same_picture(autoencoder):
    latents = torch.randn(3, 4, 6, 8)
    assert relative_error(decode_sliced(autoencoder, latents), autoencoder.decode(latents)) < 1e-5
