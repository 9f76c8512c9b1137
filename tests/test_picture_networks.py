"""Networks that are given a picture make the latents that diffusers' pipelines for them make from the same weights."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxFillPipeline,
    FluxKontextPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
)
from torch import Tensor

from backend.diffusion.guidance import ConditionedNetwork, Conditioning, classifier_free, image_and_text
from backend.diffusion.prediction import Network, denoiser
from backend.diffusion.samplers.euler import euler
from backend.families import flux, sd1, sdxl
from backend.families.family import Model, ModelFiles, PictureUse
from backend.nn.flux import Flux, FluxConfig
from backend.text.clip_tokenizer import END_TEXT
from backend.weights.source import InMemory
from tests.reference_weights import relative_error, with_random_weights
from tests.test_flux import diffusers_twin
from tests.test_unet_families import (
    NEGATIVE,
    PROMPT,
    SIZE,
    WIDTH_L,
    Parts,
    euler_scheduler,
    machine,
    prompt,
    quiet,
    sdxl_parts,
    text_model,
    tokens,
    unet,
    xl_prompts,
)
from tests.tiny_transformers import WIDTH_T5, autoencoder, clip, source_of, t5

STEPS = 3
Guide = Callable[[ConditionedNetwork, Conditioning, Conditioning], Network]


def picture() -> Tensor:
    """[1, 3, 64, 64] in -1..1."""
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def mask() -> Tensor:
    """[1, 1, 64, 64]: a rectangle that cuts through latent pixels, with a soft edge."""
    area = torch.zeros(1, 1, SIZE, SIZE)
    area[..., 11:37, 20:51] = 1.0
    area[..., 8:11, 20:51] = 0.75
    area[..., 37:40, 20:51] = 0.25
    return area


def start(channels: int, images: int = 1) -> Tensor:
    return torch.randn(images, channels, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(5))


def certain(vae: AutoencoderKL) -> AutoencoderKL:
    """An autoencoder whose latents have next to no variance, so that those that are drawn are the means."""
    layer = vae.encoder.conv_out if vae.quant_conv is None else vae.quant_conv
    channels = vae.config.latent_channels
    with torch.no_grad():
        layer.weight[channels:] = 0
        layer.bias[channels:] = -30
    return vae


def sd1_parts(in_channels: int) -> Parts:
    text = text_model(WIDTH_L, activation="quick_gelu", projected=False)
    network = unet(cross_attention_dim=WIDTH_L, use_linear_projection=False, in_channels=in_channels, sample_size=8)
    parts = Parts(network, {"clip_l": text}, metadata={"emulsion.num_heads": "1"})
    certain(parts.vae)
    return parts


@torch.no_grad()
def sd1_states(parts: Parts, text: str) -> Tensor:
    return parts.text["clip_l"](input_ids=tokens(text, END_TEXT)).last_hidden_state


@torch.no_grad()
def sampled(model: Model, x: Tensor, sigmas: list[float], image: Tensor | None, guide: Guide) -> Tensor:
    """Latents after Euler steps, for a picture's channels."""
    prompts = prompt(PROMPT), prompt(NEGATIVE, is_negative=True)
    cond, uncond = (dataclasses.replace(model.encode_prompt(each), image=image) for each in prompts)
    network = guide(model.network([]), cond, uncond)
    denoise = denoiser(network, model.prediction, model.levels(SIZE, SIZE, None))
    return euler(denoise, x, sigmas, model.process, lambda: torch.zeros_like(x))


def by_text(network: ConditionedNetwork, cond: Conditioning, uncond: Conditioning) -> Network:
    return classifier_free(network, cond, uncond, 5.0)


def by_picture_and_text(network: ConditionedNetwork, cond: Conditioning, uncond: Conditioning) -> Network:
    return image_and_text(network, cond, uncond, image_scale=1.5, text_scale=5.0)


def alone(network: ConditionedNetwork, cond: Conditioning, uncond: Conditioning) -> Network:
    return classifier_free(network, cond, None, 1.0)


def test_an_inpainting_network_makes_the_latents_of_diffusers() -> None:
    parts = sd1_parts(9)
    scheduler = euler_scheduler()
    pipeline = quiet(
        StableDiffusionInpaintPipeline(parts.vae, None, None, parts.unet, scheduler, None, None, None, False)
    )
    noise = start(4, images=2)
    expected = pipeline(
        prompt_embeds=sd1_states(parts, PROMPT).repeat(2, 1, 1),
        negative_prompt_embeds=sd1_states(parts, NEGATIVE).repeat(2, 1, 1),
        image=picture() / 2 + 0.5,
        mask_image=mask(),
        latents=noise,
        strength=1.0,
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        height=SIZE,
        width=SIZE,
        output_type="latent",
    ).images
    model = sd1.load(parts.files(), machine())
    channels = model.picture_channels(picture(), mask())
    assert channels.shape == (1, 5, SIZE // 8, SIZE // 8)
    ours = sampled(model, noise * scheduler.init_noise_sigma, scheduler.sigmas.tolist(), channels, by_text)
    assert relative_error(ours, expected) < 1e-3


def test_instruct_pix2pix_makes_the_latents_of_diffusers() -> None:
    parts = sd1_parts(8)
    scheduler = euler_scheduler()
    pipeline = quiet(
        StableDiffusionInstructPix2PixPipeline(parts.vae, None, None, parts.unet, scheduler, None, None, None, False)
    )
    expected = pipeline(
        prompt_embeds=sd1_states(parts, PROMPT),
        negative_prompt_embeds=sd1_states(parts, NEGATIVE),
        image=picture() / 2 + 0.5,
        latents=start(4),
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        image_guidance_scale=1.5,
        output_type="latent",
    ).images
    model = sd1.load(parts.files(), machine())
    channels = model.picture_channels(picture(), None)
    noisy = start(4) * scheduler.init_noise_sigma
    ours = sampled(model, noisy, scheduler.sigmas.tolist(), channels, by_picture_and_text)
    assert relative_error(ours, expected) < 1e-3


@pytest.mark.parametrize("is_cosxl", [False, True], ids=["SDXL", "CosXL Edit"])
def test_sdxl_edits_pictures_as_diffusers_does(is_cosxl: bool) -> None:
    markers = {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
    parts = sdxl_parts(markers=markers if is_cosxl else {})
    parts = dataclasses.replace(
        parts,
        unet=unet(
            in_channels=8,
            cross_attention_dim=parts.unet.config.cross_attention_dim,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=parts.unet.config.projection_class_embeddings_input_dim,
        ),
    )
    certain(parts.vae).register_to_config(scaling_factor=0.13025)
    scheduler = (
        EDMEulerScheduler(sigma_min=0.002, sigma_max=120.0, sigma_data=1.0, prediction_type="v_prediction")
        if is_cosxl
        else euler_scheduler()
    )
    pipeline = quiet(
        StableDiffusionXLInstructPix2PixPipeline(
            parts.vae, None, None, None, None, parts.unet, scheduler, is_cosxl_edit=is_cosxl
        )
    )
    expected = pipeline(
        **{name: value[:1] for name, value in xl_prompts(parts, NEGATIVE).items()},
        image=picture() / 2 + 0.5,
        latents=start(4),
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        image_guidance_scale=1.5,
        height=SIZE,
        width=SIZE,
        output_type="latent",
    ).images
    model = sdxl.load(parts.files(), machine())
    channels = model.picture_channels(picture(), None)
    noisy = start(4) * scheduler.init_noise_sigma
    ours = sampled(model, noisy, scheduler.sigmas.tolist(), channels, by_picture_and_text)
    assert relative_error(ours, expected) < 1e-3


def test_flux_fill_makes_the_latents_of_diffusers() -> None:
    config = FluxConfig(
        in_channels=384, width=64, heads=2, mlp_width=256, double_blocks=1, single_blocks=2,
        context_dim=WIDTH_T5, vector_dim=WIDTH_L,
    )  # fmt: skip
    network = with_random_weights(Flux(config))
    vae = certain(autoencoder(16, scaling=0.3611, shift=0.1159))
    encoders = {"clip_l": source_of(clip(WIDTH_L, projected=False)), "t5": source_of(t5())}
    files = ModelFiles(checkpoint=source_of(network), vae=source_of(vae), text_encoders=encoders)
    model = flux.load(files, machine())
    cond = model.encode_prompt(prompt(PROMPT))
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, max_image_seq_len=4096
    )
    pipeline = quiet(FluxFillPipeline(scheduler, vae, None, None, None, None, diffusers_twin(network)))
    noise = start(16)
    packed = pipeline(
        prompt_embeds=cond.context, pooled_prompt_embeds=cond.vector, image=picture() / 2 + 0.5, mask_image=mask(),
        guidance_scale=30.0, num_inference_steps=STEPS, sigmas=list(np.linspace(1, 1 / STEPS, STEPS)),
        latents=FluxFillPipeline._pack_latents(noise, 1, 16, 8, 8), height=SIZE, width=SIZE, output_type="latent",
    ).images  # fmt: skip
    theirs = FluxFillPipeline._unpack_latents(packed, SIZE, SIZE, 8)
    channels = model.picture_channels(picture(), mask())
    assert channels.shape == (1, 16 + 64, SIZE // 8, SIZE // 8)
    ours = sampled(model, noise, scheduler.sigmas.tolist(), channels, alone)
    assert relative_error(ours, theirs) < 1e-3


def test_a_network_without_a_picture_is_given_one_that_is_all_masked_or_none_at_all() -> None:
    inpainting, editing = (sd1.load(sd1_parts(channels).files(), machine()) for channels in (9, 8))
    masked = inpainting.picture_channels(torch.zeros(1, 3, SIZE, SIZE), None)
    for model, blank in ((inpainting, masked), (editing, torch.zeros(1, 4, SIZE // 8, SIZE // 8))):
        cond = model.encode_prompt(prompt(PROMPT))
        told = dataclasses.replace(cond, image=blank)
        network = model.network([])
        assert torch.equal(*(network(start(4), torch.tensor([500.0]), each) for each in (cond, told)))


def test_an_inpainting_network_may_see_some_of_what_is_hidden() -> None:
    model = sd1.load(sd1_parts(9).files(), machine())
    hidden, half, seen = (model.picture_channels(picture(), mask(), weight) for weight in (1.0, 0.5, 0.0))
    assert torch.equal(seen[:, 1:], model.encode(picture()))
    assert torch.equal(hidden[:, :1], seen[:, :1])
    assert torch.equal(model.picture_channels(torch.where(mask() >= 0.5, 0.3, picture()), mask()), hidden)
    assert relative_error(half, hidden) > 0.01
    assert relative_error(half, seen) > 0.01


def test_a_plain_network_is_given_no_picture() -> None:
    model = sd1.load(sd1_parts(4).files(), machine())
    assert model.picture_use is PictureUse.NONE
    with pytest.raises(ValueError, match="no picture"):
        model.picture_channels(picture(), None)


@pytest.mark.parametrize("has_picture", [True, False], ids=["with a picture", "from a text alone"])
def test_flux_kontext_makes_the_latents_of_diffusers(has_picture: bool) -> None:
    config = FluxConfig(
        width=64, heads=2, mlp_width=256, double_blocks=1, single_blocks=2, context_dim=WIDTH_T5, vector_dim=WIDTH_L
    )
    network = with_random_weights(Flux(config))
    vae = autoencoder(16, scaling=0.3611, shift=0.1159)
    encoders = {"clip_l": source_of(clip(WIDTH_L, projected=False)), "t5": source_of(t5())}
    checkpoint = InMemory(dict(network.state_dict()), metadata={"modelspec.architecture": "flux-1-dev-kontext"})
    assert flux.describe(checkpoint).picture_use is PictureUse.EDITING
    model = flux.load(ModelFiles(checkpoint=checkpoint, vae=source_of(vae), text_encoders=encoders), machine())
    assert (model.picture_use, model.takes_image_guidance) == (PictureUse.EDITING, False)
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, max_image_seq_len=4096
    )
    pipeline = quiet(FluxKontextPipeline(scheduler, vae, None, None, None, None, diffusers_twin(network)))
    cond, noise = model.encode_prompt(prompt(PROMPT)), start(16, images=2)
    packed = pipeline(
        prompt_embeds=cond.context.repeat(2, 1, 1), pooled_prompt_embeds=cond.vector.repeat(2, 1),
        image=picture() / 2 + 0.5 if has_picture else None, guidance_scale=2.5, num_inference_steps=STEPS,
        latents=FluxKontextPipeline._pack_latents(noise, 2, 16, 8, 8), height=SIZE, width=SIZE, max_area=SIZE * SIZE,
        output_type="latent", _auto_resize=False,
    ).images  # fmt: skip
    theirs = FluxKontextPipeline._unpack_latents(packed, SIZE, SIZE, 8)
    channels = model.picture_channels(picture(), None) if has_picture else None
    ours = sampled(model, noise, scheduler.sigmas.tolist(), channels, alone)
    assert relative_error(ours, theirs) < 1e-3


def test_a_file_that_does_not_say_that_it_is_kontext_is_dev() -> None:
    config = FluxConfig(width=64, heads=2, mlp_width=64, double_blocks=1, single_blocks=1, context_dim=8, vector_dim=8)
    said = flux.describe(source_of(Flux(config)))
    assert (said.picture_use, said.defaults.distilled_guidance) == (PictureUse.NONE, 3.5)
