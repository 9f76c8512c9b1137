"""PixArt: what a file is, and the latents that diffusers' pipelines make from the same weights."""

import dataclasses

import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline
from torch import Tensor
from transformers import T5EncoderModel

from backend.diffusion.schedules import normal
from backend.errors import KeysDoNotMatch, UnsupportedCheckpoint
from backend.families.family import ModelFiles
from backend.families.pixart import describe, load, recognise
from backend.nn.pixart import PixArt, PixArtConfig
from backend.weights.source import InMemory
from tests.reference_weights import relative_error, with_random_weights
from tests.test_pixart import diffusers_twin
from tests.test_t5 import their_t5_tokenizer
from tests.tiny_transformers import SIZE, WIDTH_T5, autoencoder, decoded_by, machine, prompt, sampled, source_of, t5

SIGMA = PixArtConfig(width=192, heads=16, blocks=2, mlp_width=768, context_dim=WIDTH_T5)
ALPHA = dataclasses.replace(SIGMA, is_told_sizes=True)
PROMPT, NEGATIVE = "A Cat in the rain", "blurry"


@pytest.fixture(scope="module")
def encoder() -> T5EncoderModel:
    return t5()


def vae_of(config: PixArtConfig) -> AutoencoderKL:
    return autoencoder(4, scaling=0.18215 if config.is_told_sizes else 0.13025)


def network_of(config: PixArtConfig) -> PixArt:
    return with_random_weights(PixArt(config))


def published(network: PixArt, *, tokens: int = 300, side: int = 64) -> dict[str, Tensor]:
    """As in the authors' files, which hold a table of positions and an empty caption, too."""
    table = torch.zeros(1, side**2, network.config.width)
    return {**network.state_dict(), "pos_embed": table, "y_embedder.y_embedding": torch.zeros(tokens, WIDTH_T5)}


def files(tensors: dict[str, Tensor], vae: AutoencoderKL, encoder: T5EncoderModel | None) -> ModelFiles:
    encoders = {} if encoder is None else {"t5": source_of(encoder)}
    return ModelFiles(checkpoint=InMemory(tensors), vae=source_of(vae), text_encoders=encoders)


@pytest.mark.parametrize("config", [SIGMA, ALPHA], ids=["Sigma", "alpha"])
@pytest.mark.parametrize("has_published_names", [True, False], ids=["published names", "diffusers' names"])
def test_four_steps_make_the_latents_of_diffusers(config, has_published_names, encoder):
    network, vae = network_of(config), vae_of(config)
    twin = diffusers_twin(network)
    kind = PixArtAlphaPipeline if config.is_told_sizes else PixArtSigmaPipeline
    pipeline = kind(
        transformer=twin,
        scheduler=EulerDiscreteScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"),
        vae=vae,
        text_encoder=encoder,
        tokenizer=their_t5_tokenizer(),
    )
    pipeline.set_progress_bar_config(disable=True)
    start = torch.randn(1, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(3))
    theirs = pipeline(
        PROMPT, negative_prompt=NEGATIVE, guidance_scale=4.5, num_inference_steps=4, latents=start, height=SIZE,
        width=SIZE, use_resolution_binning=False, clean_caption=False, output_type="latent",
        max_sequence_length=120 if config.is_told_sizes else 300,
    ).images  # fmt: skip
    if has_published_names:
        tensors = published(network, tokens=120 if config.is_told_sizes else 300)
    else:
        tensors = dict(twin.state_dict())
    model = load(files(tensors, vae, encoder), machine())
    sigmas = normal(4, model.levels(SIZE, SIZE, None))
    ours = sampled(model, sigmas, start, (PROMPT, NEGATIVE), 4.5)
    assert relative_error(ours, theirs) < 1e-3
    assert relative_error(model.decode(ours), decoded_by(vae, ours)) < 1e-4


def test_a_missing_t5_is_named_with_the_folder_for_it():
    with pytest.raises(UnsupportedCheckpoint, match=r"T5-XXL text encoder.*models/text_encoders"):
        load(files(published(network_of(SIGMA)), vae_of(SIGMA), None), machine())


def test_an_encoder_of_another_width_is_refused(encoder):
    network = network_of(dataclasses.replace(SIGMA, context_dim=216))
    with pytest.raises(UnsupportedCheckpoint, match=r"width 208.*reads 216"):
        load(files(published(network), vae_of(SIGMA), encoder), machine())


@pytest.mark.parametrize(("side", "native_size"), [(16, 256), (32, 512), (64, 1024), (128, 2048)])
def test_the_table_of_positions_tells_the_native_size(side, native_size):
    assert describe(InMemory(published(network_of(SIGMA), side=side))).native_size == native_size


def test_positions_of_alpha_at_256_pixels_reach_half_as_far(encoder):
    network, x = network_of(SIGMA), torch.randn(1, 4, 8, 8)
    sizes = {tokens: published(network, tokens=tokens, side=16) for tokens in (120, 300)}
    models = [load(files(tensors, vae_of(SIGMA), encoder), machine()) for tensors in sizes.values()]
    cond = models[1].encode_prompt(prompt(PROMPT))
    alpha, sigma = (model.network([])(x, torch.tensor([500.0]), cond) for model in models)
    assert relative_error(alpha, sigma) > 1e-3


def test_compressed_keys_are_refused_by_name(encoder):
    tensors = published(network_of(SIGMA)) | {"blocks.1.attn.sr.weight": torch.zeros(192, 1, 2, 2)}
    assert recognise(InMemory(tensors))
    with pytest.raises(UnsupportedCheckpoint, match="compresses keys"):
        load(files(tensors, vae_of(SIGMA), encoder), machine())


def test_a_name_of_diffusers_that_is_not_known_is_refused(encoder):
    tensors = dict(diffusers_twin(network_of(SIGMA)).state_dict())
    tensors["transformer_blocks.0.attn3.to_q.weight"] = torch.zeros(1)
    model = load(files(tensors, vae_of(SIGMA), encoder), machine())
    with pytest.raises(KeysDoNotMatch, match="attn3"):
        model.network([500.0])


def test_defaults_are_those_of_the_authors():
    for config in (SIGMA, ALPHA):
        said = describe(InMemory(published(network_of(config))))
        assert (said.defaults.sampler, said.defaults.steps, said.defaults.guidance_scale) == ("dpmpp_2m", 20, 4.5)
        assert said.needed == ("t5",)


def test_a_budget_smaller_than_the_network_changes_no_bit(encoder):
    chosen = files(published(network_of(ALPHA), tokens=120), vae_of(ALPHA), encoder)
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    cond = load(chosen, machine()).encode_prompt(prompt(PROMPT))
    whole, streamed = (
        load(chosen, machine(budget)).network([500.0])(start, torch.tensor([500.0]), cond)
        for budget in (2**30, 2_500_000)
    )
    assert torch.equal(whole, streamed)
