"""FLUX.1: what a file is, and the latents that diffusers' pipeline makes from the same weights."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
from torch import nn

from backend.diffusion.schedules import simple
from backend.errors import UnsupportedCheckpoint
from backend.families.family import ModelFiles
from backend.families.flux import describe, load, recognise
from backend.nn.flux import Flux, FluxConfig
from backend.weights.source import InMemory
from tests.reference_weights import relative_error, with_random_weights
from tests.test_flux import diffusers_twin
from tests.test_t5 import their_t5_tokenizer
from tests.tiny_transformers import (
    SIZE,
    WIDTH_L,
    WIDTH_T5,
    autoencoder,
    clip,
    clip_tokenizer,
    decoded_by,
    machine,
    prompt,
    sampled,
    source_of,
    t5,
    with_name_prefix,
)

DEV = FluxConfig(
    width=64, heads=2, mlp_width=256, double_blocks=1, single_blocks=2, context_dim=WIDTH_T5, vector_dim=WIDTH_L
)
SCHNELL = dataclasses.replace(DEV, is_guided=False)
PROMPT = "a cat in the rain"


@pytest.fixture(scope="module")
def encoders() -> dict[str, nn.Module]:
    return {"clip_l": clip(WIDTH_L, projected=False), "t5": t5()}


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return autoencoder(16, scaling=0.3611, shift=0.1159)


def network_of(config: FluxConfig) -> Flux:
    return with_random_weights(Flux(config))


def files(network: Flux, vae: AutoencoderKL | None, encoders: dict[str, nn.Module]) -> ModelFiles:
    return ModelFiles(
        checkpoint=source_of(network),
        vae=vae and source_of(vae),
        text_encoders={kind: source_of(model) for kind, model in encoders.items()},
    )


@pytest.mark.parametrize("config", [DEV, SCHNELL], ids=["dev", "schnell"])
def test_four_steps_make_the_latents_of_diffusers(config, encoders, vae):
    network = network_of(config)
    pipeline = FluxPipeline(
        transformer=diffusers_twin(network),
        # The shift for the size of the picture, as [dev] has it; [schnell] has none.
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=config.is_guided, base_shift=0.5, max_shift=1.15, max_image_seq_len=4096
        ),
        vae=vae,
        text_encoder=encoders["clip_l"],
        tokenizer=clip_tokenizer(),
        text_encoder_2=encoders["t5"],
        tokenizer_2=their_t5_tokenizer(),
    )
    pipeline.set_progress_bar_config(disable=True)
    start = torch.randn(1, 16, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(3))
    packed = pipeline(
        PROMPT, guidance_scale=3.5, num_inference_steps=4, sigmas=list(np.linspace(1, 0.25, 4)),
        latents=FluxPipeline._pack_latents(start, 1, 16, 8, 8), max_sequence_length=512 if config.is_guided else 256,
        height=SIZE, width=SIZE, output_type="latent",
    ).images  # fmt: skip
    theirs = FluxPipeline._unpack_latents(packed, SIZE, SIZE, 8)
    model = load(files(network, vae, encoders), machine())
    ours = sampled(model, simple(4, model.levels(SIZE, SIZE, None)), start, (PROMPT, None), 1.0)
    assert relative_error(ours, theirs) < 1e-4
    assert relative_error(model.decode(ours), decoded_by(vae, ours)) < 1e-4


def test_encoders_and_autoencoder_may_lie_inside_of_the_checkpoint(encoders, vae):
    network = network_of(DEV)
    tensors = (
        with_name_prefix("model.diffusion_model.", network.state_dict())
        | with_name_prefix("text_encoders.clip_l.transformer.text_model.", encoders["clip_l"].state_dict())
        | with_name_prefix("text_encoders.t5xxl.transformer.", encoders["t5"].state_dict())
        | with_name_prefix("vae.", vae.state_dict())
    )
    source = InMemory(tensors)
    assert recognise(source)
    assert set(describe(source).embedded) == {"clip_l", "t5"}
    start = torch.randn(1, 16, 8, 8)
    models = [load(chosen, machine()) for chosen in (files(network, vae, encoders), ModelFiles(checkpoint=source))]
    assert torch.equal(*(sampled(model, [1.0, 0.5, 0.0], start, (PROMPT, None), 1.0) for model in models))


@pytest.mark.parametrize(("missing", "named"), [("clip_l", "CLIP-L"), ("t5", "T5-XXL")])
def test_a_missing_text_encoder_is_named_with_the_folder_for_it(missing, named, encoders, vae):
    there = {kind: model for kind, model in encoders.items() if kind != missing}
    with pytest.raises(UnsupportedCheckpoint, match=rf"{named} text encoder.*models/text_encoders"):
        load(files(network_of(DEV), vae, there), machine())


def test_a_missing_autoencoder_is_named_with_the_folder_for_it(encoders):
    with pytest.raises(UnsupportedCheckpoint, match="models/vae"):
        load(files(network_of(DEV), None, encoders), machine())


@pytest.mark.parametrize(("in_channels", "named"), [(256, "256 numbers"), (128, "Canny or Depth")])
def test_networks_with_inputs_that_are_not_known_are_named(in_channels, named, encoders, vae):
    network = network_of(dataclasses.replace(DEV, in_channels=in_channels))
    assert recognise(source_of(network))
    with pytest.raises(UnsupportedCheckpoint, match=rf"{named}.*Choose FLUX.1"):
        load(files(network, vae, encoders), machine())


@pytest.mark.parametrize(
    "extra", [{}, {"controlnet_blocks.0.weight": torch.zeros(1)}], ids=["without a last layer", "with control blocks"]
)
def test_a_controlnet_is_no_flux(extra):
    tensors = dict(network_of(DEV).state_dict()) | extra
    if not extra:
        tensors = {key: value for key, value in tensors.items() if not key.startswith("final_layer")}
    assert not recognise(InMemory(tensors))


@pytest.mark.parametrize(
    ("config", "title", "steps", "guidance"),
    [(DEV, "", 20, 3.5), (SCHNELL, "", 4, None), (DEV, "flux dev hyper 8 steps", 8, 3.5)],
    ids=["dev", "schnell", "Hyper"],
)
def test_defaults_are_those_of_the_authors(config, title, steps, guidance):
    said = describe(InMemory(dict(network_of(config).state_dict()), metadata={"modelspec.title": title}))
    assert (said.defaults.steps, said.defaults.distilled_guidance) == (steps, guidance)
    assert said.defaults.guidance_scale == 1.0
    assert said.size_step == 16


def test_levels_are_shifted_by_the_size_of_the_picture_in_dev_alone(encoders, vae):
    dev, schnell = (load(files(network_of(config), vae, encoders), machine()) for config in (DEV, SCHNELL))
    expected = [1.0, 0.9045, 0.7595, 0.5128, 0.0]  # of diffusers at 1024 x 1024
    assert simple(4, dev.levels(1024, 1024, None)) == pytest.approx(expected, abs=1e-4)
    assert simple(4, schnell.levels(1024, 1024, None)) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0], abs=1e-4)
    assert simple(2, dev.levels(1024, 1024, 3.0)) == pytest.approx([1.0, 0.75, 0.0], abs=1e-4)


def test_what_the_network_is_told_of_guidance_is_the_prompts_or_else_the_default(encoders, vae):
    dev, schnell = (load(files(network_of(config), vae, encoders), machine()) for config in (DEV, SCHNELL))
    stronger = dataclasses.replace(prompt(PROMPT), distilled_guidance=5.0)
    assert dev.encode_prompt(prompt(PROMPT)).guidance == 3.5
    assert dev.encode_prompt(stronger).guidance == 5.0
    assert schnell.encode_prompt(stronger).guidance is None


def test_a_budget_smaller_than_the_network_changes_no_bit(encoders, vae):
    chosen = files(network_of(DEV), vae, encoders)
    start = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(3))
    cond = load(chosen, machine()).encode_prompt(prompt(PROMPT))
    whole, streamed = (
        load(chosen, machine(budget)).network([500.0])(start, torch.tensor([500.0]), cond)
        for budget in (2**30, 800_000)
    )
    assert torch.equal(whole, streamed)
