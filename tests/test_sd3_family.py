"""Stable Diffusion 3: what a file is, and the latents that diffusers' pipeline makes from the same weights."""

import dataclasses

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from torch import Tensor, nn

from backend.diffusion.schedules import normal
from backend.errors import KeysDoNotMatch, RequestError, UnsupportedCheckpoint
from backend.families.family import ModelFiles
from backend.families.sd3 import describe, load, recognise
from backend.nn.mmdit import MMDiT, MMDiTConfig
from backend.weights.source import InMemory
from tests.reference_weights import relative_error, with_random_weights
from tests.test_mmdit import diffusers_twin, table_of
from tests.test_t5 import their_t5_tokenizer
from tests.tiny_transformers import (
    SIZE,
    WIDTH_G,
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

FIRST = MMDiTConfig(width=128, heads=2, blocks=2, mlp_width=512, context_dim=WIDTH_T5, vector_dim=WIDTH_L + WIDTH_G)
MEDIUM = dataclasses.replace(FIRST, width=64, heads=4, mlp_width=256, has_query_norm=True, dual_blocks=1)
PROMPT, NEGATIVE = "a cat in the rain", "blurry"


@pytest.fixture(scope="module")
def encoders() -> dict[str, nn.Module]:
    return {"clip_l": clip(WIDTH_L), "clip_g": clip(WIDTH_G), "t5": t5()}


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return autoencoder(16, scaling=1.5305, shift=0.0609)


def transformer_tensors(network: MMDiT) -> dict[str, Tensor]:
    return {**network.state_dict(), "pos_embed": table_of(network.config)}


def network_of(config: MMDiTConfig) -> MMDiT:
    return with_random_weights(MMDiT(config))


def files(network: MMDiT, vae: AutoencoderKL, encoders: dict[str, nn.Module], **metadata: str) -> ModelFiles:
    checkpoint = InMemory(transformer_tensors(network), metadata=metadata)
    separate = {kind: source_of(model) for kind, model in encoders.items()}
    return ModelFiles(checkpoint=checkpoint, vae=source_of(vae), text_encoders=separate)


def pipeline(network: MMDiT, vae: AutoencoderKL, encoders: dict[str, nn.Module]) -> StableDiffusion3Pipeline:
    made = StableDiffusion3Pipeline(
        transformer=diffusers_twin(network),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=encoders["clip_l"],
        tokenizer=clip_tokenizer(),
        text_encoder_2=encoders["clip_g"],
        tokenizer_2=clip_tokenizer("!"),
        text_encoder_3=encoders.get("t5"),
        tokenizer_3=their_t5_tokenizer() if "t5" in encoders else None,
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("config", [FIRST, MEDIUM], ids=["3 medium", "3.5 medium"])
@pytest.mark.parametrize("has_t5", [True, False], ids=["with T5", "without T5"])
def test_four_steps_make_the_latents_of_diffusers(config, has_t5, encoders, vae):
    used = encoders if has_t5 else {kind: encoders[kind] for kind in ("clip_l", "clip_g")}
    network = network_of(config)
    start = torch.randn(1, 16, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(3))
    theirs = pipeline(network, vae, used)(
        PROMPT, negative_prompt=NEGATIVE, guidance_scale=5.0, num_inference_steps=4, latents=start,
        height=SIZE, width=SIZE, output_type="latent",
    ).images  # fmt: skip
    model = load(files(network, vae, used), machine())
    sigmas = normal(4, model.levels(SIZE, SIZE, None))
    ours = sampled(model, sigmas, start, (PROMPT, NEGATIVE), 5.0)
    assert relative_error(ours, theirs) < 1e-4
    assert relative_error(model.decode(ours), decoded_by(vae, ours)) < 1e-4


def test_encoders_and_autoencoder_may_lie_inside_of_the_checkpoint(encoders, vae):
    network = network_of(MEDIUM)
    apart = load(files(network, vae, encoders), machine())
    tensors = (
        with_name_prefix("model.diffusion_model.", transformer_tensors(network))
        | with_name_prefix("text_encoders.clip_l.transformer.", encoders["clip_l"].state_dict())
        | with_name_prefix("text_encoders.clip_g.transformer.", encoders["clip_g"].state_dict())
        | with_name_prefix("text_encoders.t5xxl.transformer.", encoders["t5"].state_dict())
        | with_name_prefix("vae.", vae.state_dict())
    )
    source = InMemory(tensors)
    assert recognise(source)
    assert set(describe(source).embedded) == {"clip_l", "clip_g", "t5"}
    assert describe(source).has_vae
    together = load(ModelFiles(checkpoint=source), machine())
    start = torch.randn(1, 16, 8, 8)
    results = [sampled(model, [1.0, 0.5, 0.0], start, (PROMPT, NEGATIVE), 3.0) for model in (apart, together)]
    assert torch.equal(*results)
    assert torch.equal(apart.decode(start), together.decode(start))


@pytest.mark.parametrize("kept", ["clip_l", "clip_g", "t5"])
def test_any_text_encoder_is_enough_and_a_missing_one_says_zeros(kept, encoders, vae):
    network = network_of(MEDIUM)
    whole = load(files(network, vae, encoders), machine()).encode_prompt(prompt(PROMPT))
    part = load(files(network, vae, {kept: encoders[kept]}), machine()).encode_prompt(prompt(PROMPT))
    assert part.context.shape == whole.context.shape
    spans = {
        "clip_l": (slice(0, 77), slice(0, WIDTH_L)),
        "clip_g": (slice(0, 77), slice(WIDTH_L, WIDTH_L + WIDTH_G)),
        "t5": (slice(77, None), slice(None)),
    }
    for kind, (tokens, columns) in spans.items():
        found = part.context[:, tokens, columns]
        assert torch.equal(found, whole.context[:, tokens, columns] if kind == kept else torch.zeros_like(found))
    assert part.vector is not None
    assert bool(part.vector.any()) == (kept != "t5")


def test_without_any_text_encoder_the_error_says_where_to_put_one(vae):
    with pytest.raises(UnsupportedCheckpoint, match="models/text_encoders"):
        load(files(network_of(MEDIUM), vae, {}), machine())


def test_an_encoder_of_another_width_is_refused(encoders, vae):
    with pytest.raises(UnsupportedCheckpoint, match=r"width 128.*reads 136"):
        load(files(network_of(dataclasses.replace(MEDIUM, vector_dim=200)), vae, encoders), machine())
    with pytest.raises(UnsupportedCheckpoint, match=r"width 208.*reads 216"):
        load(files(network_of(dataclasses.replace(MEDIUM, context_dim=216)), vae, encoders), machine())


def test_an_autoencoder_of_four_channels_is_refused(encoders):
    with pytest.raises(UnsupportedCheckpoint, match="16 at 1/8"):
        load(files(network_of(MEDIUM), autoencoder(4, scaling=1.0), encoders), machine())


def test_a_picture_that_is_larger_than_the_table_of_positions_is_refused(encoders, vae):
    model = load(files(network_of(MEDIUM), vae, encoders), machine())
    cond = model.encode_prompt(prompt(PROMPT))
    with pytest.raises(RequestError, match="longest side is 192"):
        model.network([500.0])(torch.zeros(1, 16, 8, 26), torch.tensor([500.0]), cond)


def test_a_table_of_positions_that_is_missing_or_no_square_is_the_files_fault():
    tensors = transformer_tensors(network_of(MEDIUM))
    with pytest.raises(KeysDoNotMatch, match="pos_embed"):
        describe(InMemory({key: value for key, value in tensors.items() if key != "pos_embed"}))
    with pytest.raises(KeysDoNotMatch, match="pos_embed"):
        describe(InMemory(tensors | {"pos_embed": torch.zeros(1, 10, 64)}))


def test_steps_beyond_the_planned_ones_have_the_same_bits(encoders, vae):
    model = load(files(network_of(MEDIUM), vae, encoders), machine())
    cond = model.encode_prompt(prompt(PROMPT))
    x = torch.randn(2, 16, 8, 8)
    planned, surprised = model.network([900.0, 500.0, 12.5]), model.network([])
    for timestep in (900.0, 500.0, 12.5):
        timesteps = torch.full((2,), timestep)
        assert torch.equal(planned(x, timesteps, cond), surprised(x, timesteps, cond))


@pytest.mark.parametrize(
    ("config", "title", "steps", "scale"),
    [
        (FIRST, "", 28, 7.0),
        (MEDIUM, "", 28, 4.5),
        (dataclasses.replace(MEDIUM, dual_blocks=0), "Stable Diffusion 3.5 Large Turbo", 4, 1.0),
    ],
    ids=["3 medium", "3.5 medium", "3.5 large turbo"],
)
def test_defaults_are_those_of_the_authors(config, title, steps, scale):
    source = InMemory(transformer_tensors(network_of(config)), metadata={"modelspec.title": title})
    said = describe(source)
    assert (said.defaults.steps, said.defaults.guidance_scale, said.native_size) == (steps, scale, 1024)
    assert said.has_shift
    assert not said.has_vae
    assert said.defaults.sampler == "euler"


def test_a_budget_smaller_than_the_network_changes_no_bit(encoders, vae):
    chosen = files(network_of(MEDIUM), vae, encoders)
    start = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(3))
    cond = load(chosen, machine()).encode_prompt(prompt(PROMPT))
    whole, streamed = (
        load(chosen, machine(budget)).network([500.0])(start, torch.tensor([500.0]), cond)
        for budget in (2**30, 800_000)
    )
    assert torch.equal(whole, streamed)
