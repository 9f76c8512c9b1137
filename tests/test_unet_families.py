"""SD 2.x, SDXL, its refiner and their kin make the latents that diffusers' pipelines make from the same weights."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from backend.diffusion.guidance import classifier_free
from backend.diffusion.prediction import denoiser
from backend.diffusion.samplers.euler import euler
from backend.families import sd1, sd2, sdxl, sdxl_refiner
from backend.families.family import Machine, Model, ModelFiles, Prompt
from backend.memory.device import DeviceFacts
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.residency import Residency
from backend.text.clip_tokenizer import BEGIN_TEXT, END_TEXT, ClipTokenizer
from backend.text.emphasis import BUILTIN as EMPHASIS
from backend.weights.source import InMemory
from tests.reference_weights import relative_error, with_random_weights

SIZE = 64  # pixels
PROMPT, NEGATIVE = "a cat in the rain", "blurry"
METADATA = {"emulsion.norm_groups": "8", "emulsion.vae_norm_groups": "4"}
CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
UNET = {
    "block_out_channels": (64, 64),
    "down_block_types": ("DownBlock2D", CROSS[0]),
    "up_block_types": (CROSS[1], "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 1,
    "norm_num_groups": 8,
    "use_linear_projection": True,
}
WIDTH_L, WIDTH_G, POOLED = 64, 128, 48
FULL = DtypePolicy(unet=torch.float32, text_encoder=torch.float32, autoencoder=torch.float32)


def machine() -> Machine:
    device = DeviceFacts(kind="cpu", name="test", total_bytes=2**33, has_bfloat16=True, has_float16=False)
    return Machine(device=device, policy=FULL, residency=Residency(2**30))


def text_model(width: int, *, activation: str, projected: bool) -> nn.Module:
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=width // 64,
        projection_dim=POOLED,
        hidden_act=activation,
        vocab_size=49408,
        eos_token_id=END_TEXT,
    )
    return with_random_weights((CLIPTextModelWithProjection if projected else CLIPTextModel)(config))


def autoencoder() -> AutoencoderKL:
    return with_random_weights(
        AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
        )
    )


@dataclass(frozen=True)
class Parts:
    """The networks of a model as diffusers and transformers have them, and what its file has besides."""

    unet: UNet2DConditionModel
    text: dict[str, nn.Module]
    vae: AutoencoderKL = field(default_factory=autoencoder)
    markers: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def files(self) -> ModelFiles:
        weights = {f"unet.{key}": value for key, value in self.unet.state_dict().items()}
        weights |= {f"vae.{key}": value for key, value in self.vae.state_dict().items()}
        encoders = {kind: InMemory(dict(model.state_dict())) for kind, model in self.text.items()}
        checkpoint = InMemory(weights | self.markers, metadata=METADATA | self.metadata)
        return ModelFiles(checkpoint=checkpoint, text_encoders=encoders)


def unet(**changes: Any) -> UNet2DConditionModel:
    return with_random_weights(UNet2DConditionModel(**(UNET | changes)))


def sd2_parts(**changes: Any) -> Parts:
    text = text_model(WIDTH_G, activation="gelu", projected=False)
    return Parts(unet(cross_attention_dim=WIDTH_G), {"clip_h": text}, **changes)


def sdxl_parts(**changes: Any) -> Parts:
    network = unet(
        cross_attention_dim=WIDTH_L + WIDTH_G,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=POOLED + 6 * 8,
    )
    text = {
        "clip_l": text_model(WIDTH_L, activation="quick_gelu", projected=False),
        "clip_g": text_model(WIDTH_G, activation="gelu", projected=True),
    }
    return Parts(network, text, **changes)


def refiner_parts() -> Parts:
    network = unet(
        cross_attention_dim=WIDTH_G,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=POOLED + 5 * 8,
    )
    return Parts(network, {"clip_g": text_model(WIDTH_G, activation="gelu", projected=True)})


def tokens(text: str, padding: int) -> Tensor:
    ids = [BEGIN_TEXT, *ClipTokenizer.load().encode(text), END_TEXT]
    return torch.tensor([ids + [padding] * (77 - len(ids))])


@torch.no_grad()
def states(parts: Parts, kind: str, text: str) -> tuple[Tensor, Tensor]:
    """What diffusers' pipelines read: the states of the layer before the last, and the pooled vector."""
    padding = END_TEXT if kind == "clip_l" else 0
    output = parts.text[kind](input_ids=tokens(text, padding), output_hidden_states=True)
    return output.hidden_states[-2], output[0]


def prompt(text: str, **changes: Any) -> Prompt:
    return Prompt(text=text, emphasis=EMPHASIS[0], width=SIZE, height=SIZE, **changes)


@torch.no_grad()
def sampled(model: Model, x: Tensor, sigmas: list[float], guidance: float, negative: str = NEGATIVE) -> Tensor:
    """Latents after Euler steps."""
    cond, uncond = model.encode_prompt(prompt(PROMPT)), model.encode_prompt(prompt(negative, is_negative=True))
    network = classifier_free(model.network([]), cond, uncond, guidance)
    denoise = denoiser(network, model.prediction, model.levels(SIZE, SIZE, None))
    return euler(denoise, x, sigmas, model.process, lambda: torch.zeros_like(x))


def first_latents() -> Tensor:
    return torch.randn(2, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(5))


def euler_scheduler(**changes: Any) -> EulerDiscreteScheduler:
    stable_diffusion = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    return EulerDiscreteScheduler(**(stable_diffusion | {"timestep_spacing": "trailing", "steps_offset": 1} | changes))


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# Whole pipelines of four steps


@pytest.mark.parametrize("is_velocity", [True, False], ids=["768, v", "512, noise"])
def test_sd2_makes_the_latents_and_the_picture_of_diffusers(is_velocity: bool) -> None:
    parts = sd2_parts(markers={"v_pred": torch.zeros(0)} if is_velocity else {})
    scheduler = euler_scheduler(prediction_type="v_prediction" if is_velocity else "epsilon")
    pipeline = quiet(StableDiffusionPipeline(parts.vae, None, None, parts.unet, scheduler, None, None, None, False))
    final_norm = parts.text["clip_h"].final_layer_norm
    cond, uncond = (final_norm(states(parts, "clip_h", text)[0]) for text in (PROMPT, NEGATIVE))
    start = first_latents()
    arguments: dict[str, Any] = {
        "prompt_embeds": cond.repeat_interleave(2, 0),
        "negative_prompt_embeds": uncond.repeat_interleave(2, 0),
        "latents": start,
        "num_inference_steps": 4,
        "guidance_scale": 5.0,
        "height": SIZE,
        "width": SIZE,
    }
    expected = pipeline(**arguments, output_type="latent").images
    picture = pipeline(**arguments, output_type="pt").images

    model = sd2.load(parts.files(), machine())
    ours = sampled(model, start * scheduler.init_noise_sigma, scheduler.sigmas.tolist(), 5.0)
    assert relative_error(ours, expected) < 1e-3
    assert relative_error((model.decode(ours) / 2 + 0.5).clamp(0, 1), picture) < 1e-3


@pytest.mark.parametrize("negative", [NEGATIVE, ""], ids=["negative prompt", "no negative prompt"])
def test_sdxl_makes_the_latents_of_diffusers(negative: str) -> None:
    parts = sdxl_parts()
    scheduler = euler_scheduler()
    pipeline = quiet(StableDiffusionXLPipeline(parts.vae, None, None, None, None, parts.unet, scheduler))
    start = first_latents()
    expected = pipeline(
        **xl_prompts(parts, negative),
        latents=start,
        num_inference_steps=4,
        guidance_scale=5.0,
        height=SIZE,
        width=SIZE,
        output_type="latent",
    ).images
    model = sdxl.load(parts.files(), machine())
    ours = sampled(model, start * scheduler.init_noise_sigma, scheduler.sigmas.tolist(), 5.0, negative)
    assert relative_error(ours, expected) < 1e-3


def test_playground_makes_the_latents_and_the_picture_of_diffusers() -> None:
    mean, std = (-1.6574, 1.886, -1.383, 2.5155), (8.4927, 5.9022, 6.5498, 5.2299)
    statistics = {"edm_mean": torch.tensor(mean).view(1, 4, 1, 1), "edm_std": torch.tensor(std).view(1, 4, 1, 1)}
    parts = sdxl_parts(markers=statistics)
    parts.vae.register_to_config(latents_mean=mean, latents_std=std, scaling_factor=0.5)
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    pipeline = quiet(StableDiffusionXLPipeline(parts.vae, None, None, None, None, parts.unet, scheduler))
    start = first_latents()
    arguments = xl_prompts(parts, NEGATIVE) | {
        "latents": start,
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "height": SIZE,
        "width": SIZE,
    }
    expected = pipeline(**arguments, output_type="latent").images
    picture = pipeline(**arguments, output_type="pt").images

    model = sdxl.load(parts.files(), machine())
    ours = sampled(model, start * scheduler.init_noise_sigma, scheduler.sigmas.tolist(), 3.0)
    assert relative_error(ours, expected) < 1e-3
    assert relative_error((model.decode(ours) / 2 + 0.5).clamp(0, 1), picture) < 1e-3
    assert relative_error(model.encode(model.decode(ours)), normalised(parts.vae, model.decode(ours), mean, std)) < 1e-4


@torch.no_grad()
def normalised(vae: AutoencoderKL, images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    means, spreads = (torch.tensor(values).view(1, 4, 1, 1) for values in (mean, std))
    return (vae.encode(images).latent_dist.mean - means) * 0.5 / spreads


def test_the_refiner_finishes_the_latents_that_diffusers_does() -> None:
    parts = refiner_parts()
    scheduler = euler_scheduler()
    pipeline = quiet(
        StableDiffusionXLImg2ImgPipeline(
            parts.vae, None, None, None, None, parts.unet, scheduler, requires_aesthetics_score=True
        )
    )
    noisy = first_latents()
    (cond, pooled), (uncond, negative_pooled) = (states(parts, "clip_g", text) for text in (PROMPT, NEGATIVE))
    expected = pipeline(
        prompt_embeds=cond,
        pooled_prompt_embeds=pooled,
        negative_prompt_embeds=uncond,
        negative_pooled_prompt_embeds=negative_pooled,
        image=noisy[:1],
        denoising_start=0.8,
        num_inference_steps=20,
        guidance_scale=5.0,
        output_type="latent",
    ).images
    model = sdxl_refiner.load(parts.files(), machine())
    ours = sampled(model, noisy[:1], scheduler.sigmas.tolist()[-5:], 5.0)
    assert relative_error(ours, expected) < 1e-3


def test_a_whole_lcm_is_told_the_guidance_scale() -> None:
    """One step to the clean latents, which is where diffusers' own way of sampling them begins to draw noise."""
    text = text_model(WIDTH_L, activation="quick_gelu", projected=False)
    network = unet(cross_attention_dim=WIDTH_L, use_linear_projection=False, time_cond_proj_dim=32)
    parts = Parts(network, {"clip_l": text}, metadata={"emulsion.num_heads": "1"})
    pipeline = quiet(
        LatentConsistencyModelPipeline(parts.vae, None, None, parts.unet, LCMScheduler(), None, None, None, False)
    )
    start = first_latents()
    with torch.no_grad():
        cond = text(input_ids=tokens(PROMPT, END_TEXT)).last_hidden_state
    expected = pipeline(
        prompt_embeds=cond,
        latents=start[:1],
        num_inference_steps=1,
        guidance_scale=8.0,
        height=SIZE,
        width=SIZE,
        output_type="latent",
    ).images
    model = sd1.load(parts.files(), machine())
    told = model.encode_prompt(prompt(PROMPT, distilled_guidance=8.0))
    levels = model.levels(SIZE, SIZE, None)
    x = start[:1] * (levels.sigma_max**2 + 1) ** 0.5
    x0 = denoiser(classifier_free(model.network([]), told, None, 1.0), model.prediction, levels)(x, levels.sigma_max)
    assert relative_error(x0, expected) < 1e-3
    silent = dataclasses.replace(told, guidance=3.0)
    other = denoiser(classifier_free(model.network([]), silent, None, 1.0), model.prediction, levels)
    assert relative_error(other(x, levels.sigma_max), x0) > 1e-3


def xl_prompts(parts: Parts, negative: str) -> dict[str, Tensor]:
    """Two encoders side by side; zeros for no negative prompt."""
    arguments: dict[str, Tensor] = {}
    for name, text in (("", PROMPT), ("negative_", negative)):
        of_l, _ = states(parts, "clip_l", text)
        of_g, pooled = states(parts, "clip_g", text)
        context = torch.cat([of_l, of_g], dim=-1)
        share = 1.0 if text else 0.0
        arguments[f"{name}prompt_embeds"] = context.repeat_interleave(2, 0) * share
        arguments[f"{name}pooled_prompt_embeds"] = pooled.repeat_interleave(2, 0) * share
    return arguments
