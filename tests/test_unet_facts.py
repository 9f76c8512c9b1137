"""What is read off the files of U-Net families: predictions, noise levels, latents, defaults; and damaged ones."""

import dataclasses
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.diffusion.edm_levels import EdmLevels
from backend.diffusion.guidance import Conditioning
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.prediction import EdmPrediction, EpsPrediction, VPrediction
from backend.errors import BadCheckpoint, EmulsionError, KeysDoNotMatch
from backend.families import sd1, sd2, sdxl
from backend.families.builtin import BUILTIN
from backend.families.distilled import distillation_of
from backend.families.family import Description, Machine, Model, ModelFiles, Prompt, identify
from backend.memory.device import DeviceFacts
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.residency import Residency
from backend.nn.autoencoder import Autoencoder, AutoencoderConfig
from backend.nn.clip_text import ClipText, ClipTextConfig
from backend.nn.unet import UNet, UNetConfig
from backend.text.emphasis import BUILTIN as EMPHASIS
from backend.weights.source import InMemory
from tests.reference_weights import with_random_weights

SMALL = {"model_channels": 64, "channel_mult": (1, 1, 1, 1), "num_res_blocks": 1, "num_heads": None, "head_dim": 64}
SD1 = UNetConfig(**SMALL | {"num_heads": 8, "head_dim": None, "norm_groups": 8}, context_dim=64)
SD2 = UNetConfig(**SMALL, context_dim=128, linear_projections=True, norm_groups=8)
SDXL = dataclasses.replace(SD2, transformer_depth=(0, 1, 1, 0), context_dim=192, adm_in_channels=128 + 6 * 8)
VAE = AutoencoderConfig(channels=4, channel_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=2)
CLIP = ClipTextConfig(width=64, layers=2, heads=1, mlp_width=64)
OPEN_CLIP = dataclasses.replace(CLIP, width=128, heads=2, quick_gelu=False, projection_width=128)
METADATA = {"emulsion.norm_groups": "8", "emulsion.vae_norm_groups": "2"}
FULL = DtypePolicy(unet=torch.float32, text_encoder=torch.float32, autoencoder=torch.float32)


def machine() -> Machine:
    device = DeviceFacts(kind="cpu", name="test", total_bytes=2**33, has_bfloat16=True, has_float16=False)
    return Machine(device=device, policy=FULL, residency=Residency(2**30))


def checkpoint(unet: UNetConfig, *, name: str = "model", metadata: Mapping[str, str] = {}, **more: Tensor) -> InMemory:
    parts = {"model.diffusion_model.": with_random_weights(UNet(unet)),
             "first_stage_model.": with_random_weights(Autoencoder(VAE))}  # fmt: skip
    weights = {prefix + key: value for prefix, part in parts.items() for key, value in part.state_dict().items()}
    return InMemory(weights | more, metadata={**METADATA, **metadata}, origin=Path(f"{name}.safetensors"))


@cache
def encoder(kind: str) -> InMemory:
    config = CLIP if kind == "clip_l" else OPEN_CLIP
    return InMemory(dict(with_random_weights(ClipText(config)).state_dict()))


def files(source: InMemory) -> ModelFiles:
    return ModelFiles(checkpoint=source, text_encoders={kind: encoder(kind) for kind in ("clip_l", "clip_h", "clip_g")})


def opened(source: InMemory) -> Model:
    family = identify(source, BUILTIN)
    assert family is not None
    assert family.load is not None
    return family.load(files(source), machine())


def described(source: InMemory) -> Description:
    family = identify(source, BUILTIN)
    assert family is not None
    assert family.describe is not None
    return family.describe(source)


# Which prediction, and which noise levels

TELLING = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


@pytest.mark.parametrize(
    ("spread", "metadata", "marker", "is_velocity"),
    [
        (0.05, {}, None, False),
        (0.2, {}, None, True),
        (0.05, {}, "v_pred", True),
        (0.05, {"modelspec.prediction_type": "v"}, None, True),
        (0.2, {"modelspec.prediction_type": "epsilon"}, None, False),
    ],
)
def test_the_prediction_of_sd2_is_what_its_file_says_or_else_what_its_weights_show(
    spread: float, metadata: dict[str, str], marker: str | None, is_velocity: bool
) -> None:
    config = dataclasses.replace(SD2, num_res_blocks=2)  # for an output block 11
    bias = torch.linspace(-1, 1, 64) * spread / 0.586
    source = checkpoint(config, metadata=metadata, **{TELLING: bias} | ({marker: torch.zeros(0)} if marker else {}))
    assert sd2.predicts_velocity(source) == is_velocity
    assert isinstance(opened(source).prediction, VPrediction if is_velocity else EpsPrediction)
    assert described(source).native_size == (768 if is_velocity else 512)


def test_sdxl_that_predicts_v_to_pure_noise() -> None:
    source = checkpoint(SDXL, v_pred=torch.zeros(0), ztsnr=torch.zeros(0))
    model = opened(source)
    assert model.family == "sdxl"
    assert isinstance(model.prediction, VPrediction)
    assert model.levels(64, 64, None).sigma_max > 4000
    assert described(source).defaults.schedule == "sgm_uniform"


def test_plain_sdxl_predicts_noise() -> None:
    model = opened(checkpoint(SDXL))
    assert isinstance(model.prediction, EpsPrediction)
    levels = model.levels(64, 64, None)
    assert isinstance(levels, NoiseLevels)
    assert levels.sigma_max == pytest.approx(14.6146, abs=1e-3)


def test_playground_is_read_off_the_statistics_of_its_latents() -> None:
    statistics = {"edm_mean": torch.full((1, 4, 1, 1), 2.0), "edm_std": torch.full((1, 4, 1, 1), 8.0)}
    source = checkpoint(SDXL, **statistics)
    model = opened(source)
    assert model.prediction == EdmPrediction(0.5)
    assert model.levels(64, 64, None) == EdmLevels(0.002, 80.0)
    pictures = torch.rand(1, 3, 16, 16) * 2 - 1
    plain = opened(checkpoint(SDXL)).encode(pictures) / 0.13025
    torch.testing.assert_close(model.encode(pictures), (plain - 2.0) * 0.5 / 8.0)
    assert described(source).defaults.guidance_scale == 3.0


def test_cosxl_says_its_noise_levels() -> None:
    markers = {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
    model = opened(checkpoint(SDXL, **markers))
    assert model.prediction == VPrediction()
    levels = model.levels(64, 64, None)
    assert isinstance(levels, EdmLevels)
    assert (levels.sigma_min, levels.sigma_max) == pytest.approx((0.002, 120.0))


@pytest.mark.parametrize(
    "markers",
    [
        {"edm_mean": torch.zeros(4), "edm_std": torch.tensor([1.0, 1.0, 0.0, 1.0])},
        {"edm_mean": torch.full((4,), torch.nan), "edm_std": torch.ones(4)},
        {"edm_mean": torch.zeros(4), "edm_std": torch.ones(3)},
        {"edm_mean": torch.zeros(4000), "edm_std": torch.ones(4000)},
        {"edm_vpred.sigma_max": torch.tensor(torch.inf)},
        {"edm_vpred.sigma_max": torch.zeros(0)},
    ],
)
def test_damaged_markers_are_refused(markers: dict[str, Tensor]) -> None:
    with pytest.raises(BadCheckpoint, match="Download it again"):
        opened(checkpoint(SDXL, **markers))


# Defaults


@pytest.mark.parametrize(
    ("name", "label", "steps"),
    [
        ("sd_xl_turbo_1.0_fp16", "Turbo", 4),
        ("sd_turbo", "Turbo", 4),
        ("DreamShaperXL_Lightning-SFW", "Lightning", 4),
        ("sdxl_lightning_8step", "Lightning", 8),
        ("Hyper-SDXL-1step-Unet", "Hyper-SD", 1),
        ("epicRealismXL_hyper_8-steps", "Hyper-SD", 8),
        ("LCM_Dreamshaper_v7_4k", "LCM", 4),
        ("dmd2_sdxl_4step_unet_fp16", "DMD2", 4),
        ("sdxl_dmd_1step", "DMD2", 1),
        ("animagineTCD", "TCD", 4),
    ],
)
def test_distilled_models_are_known_by_their_names(name: str, label: str, steps: int) -> None:
    found = distillation_of(InMemory({}, origin=Path(f"{name}.safetensors")))
    assert found is not None
    assert (found[0].label, found[0].steps, found[1]) == (label, steps, "its name")


@pytest.mark.parametrize("name", ["hyperrealism_v3", "turbines", "sdxl_base_1.0", "enlightning", "model_30steps"])
def test_other_names_say_nothing(name: str) -> None:
    assert distillation_of(InMemory({}, origin=Path(f"{name}.safetensors"))) is None


def test_the_metadata_count_before_the_name() -> None:
    source = InMemory({}, metadata={"modelspec.title": "Some SDXL Turbo"}, origin=Path("x-lightning.safetensors"))
    found = distillation_of(source)
    assert found is not None
    assert (found[0].label, found[1]) == ("Turbo", "its metadata")


def test_a_distilled_model_gets_its_own_defaults_and_says_why() -> None:
    defaults = described(checkpoint(SDXL, name="sdxl_lightning_4step")).defaults
    assert (defaults.sampler, defaults.schedule, defaults.steps, defaults.guidance_scale) == ("euler", "turbo", 4, 1.0)
    assert "Lightning, as its name says" in defaults.reason
    turbo = described(checkpoint(SDXL, name="sd_xl_turbo"))
    assert (turbo.native_size, turbo.defaults.sampler) == (512, "euler_ancestral")
    assert described(checkpoint(SDXL)).native_size == 1024


def test_a_whole_lcm_is_known_by_its_weights() -> None:
    source = checkpoint(dataclasses.replace(SD1, guidance_width=16), name="dreamshaper")
    defaults = described(source).defaults
    assert identify(source, BUILTIN) is sd1.SD1
    assert (defaults.sampler, defaults.guidance_scale, defaults.distilled_guidance) == ("lcm", 1.0, 8.0)
    assert described(checkpoint(SD1)).defaults.distilled_guidance is None


# What is computed once


def test_a_text_is_attended_to_through_what_was_computed_of_it_once() -> None:
    held = machine()
    source = checkpoint(SD2)
    model = sd2.load(files(source), held)
    network = model.network([])
    cond = model.encode_prompt(Prompt(text="a cat", emphasis=EMPHASIS[0], width=64, height=64))
    x, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([500.0, 500.0])
    first = network(x, timesteps, cond)
    changed = dataclasses.replace(cond, context=cond.context + 1.0)
    cond.context.add_(1.0)  # unseen from now on: the same object is the same text
    assert torch.equal(network(x, timesteps, cond), first)
    assert not torch.equal(network(x, timesteps, changed), first)


def test_two_groups_are_their_two_texts() -> None:
    model = opened(checkpoint(SDXL))
    texts = [
        model.encode_prompt(Prompt(text=text, emphasis=EMPHASIS[0], width=64, height=96)) for text in ("a cat", "rain")
    ]
    both = Conditioning(
        context=torch.cat([text.context for text in texts]),
        vector=torch.cat([text.vector for text in texts if text.vector is not None]),
    )
    x, timesteps = torch.randn(4, 4, 12, 8), torch.full((4,), 300.0)
    network = model.network([])
    together = network(x, timesteps, both)
    apart = torch.cat([network(x[:2], timesteps[:2], texts[0]), network(x[2:], timesteps[2:], texts[1])])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_sdxl_is_told_the_size_of_the_picture() -> None:
    model = opened(checkpoint(SDXL))
    vectors = [
        model.encode_prompt(Prompt(text="a cat", emphasis=EMPHASIS[0], width=width, height=96)).vector
        for width in (64, 96)
    ]
    assert vectors[0] is not None
    assert vectors[1] is not None
    assert vectors[0].shape == (1, 128 + 6 * 8)
    same = (vectors[0] == vectors[1]).squeeze()
    assert same[:128].all()
    assert [bool(same[128 + 8 * i : 136 + 8 * i].all()) for i in range(6)] == [True, False, True, True, True, False]


def test_no_negative_prompt_is_zeros_for_sdxl_and_a_text_for_sd2() -> None:
    empty = Prompt(text=" ", is_negative=True, emphasis=EMPHASIS[0], width=64, height=64)
    of_xl = opened(checkpoint(SDXL)).encode_prompt(empty)
    assert of_xl.vector is not None
    assert not of_xl.context.any()
    assert not of_xl.vector[:, :128].any()
    assert of_xl.vector[:, 128:].any()
    assert opened(checkpoint(SDXL)).encode_prompt(dataclasses.replace(empty, is_negative=False)).context.any()
    assert opened(checkpoint(SD2)).encode_prompt(empty).context.any()


# Damaged files


def test_a_wrong_shape_anywhere_is_a_typed_error() -> None:
    """24 files in which one weight lost a dimension, is empty, is scaled, or is missing."""
    dice = random.Random(0)
    for config, family in ((SD1, sd1.SD1), (SDXL, sdxl.SDXL)):
        source = checkpoint(config)
        tensors = {key: source.read(key) for key in source.keys()}
        for _ in range(12):
            key = dice.choice(list(tensors))
            tensor = tensors[key]
            damaged = dice.choice(
                (
                    None,
                    torch.zeros(()),
                    torch.zeros(0),
                    torch.zeros(*tensor.shape, 2),
                    tensor.repeat(3, *[1] * (tensor.dim() - 1)),
                )
            )
            changed = (
                {**tensors, key: damaged} if damaged is not None else {k: v for k, v in tensors.items() if k != key}
            )
            broken = InMemory({k: v for k, v in changed.items() if v is not None}, metadata=METADATA)
            try:
                found = identify(broken, BUILTIN)
                if found is None or found.load is None:
                    continue
                assert found.describe is not None
                found.describe(broken)
                model = found.load(files(broken), machine())
                model.network([])
                model.encode(torch.zeros(1, 3, 8, 8))
            except EmulsionError:
                continue
            pytest.fail(f"{family.name} runs with {key} {list(tensor.shape)} replaced by {damaged}")


def test_irregular_levels_are_told() -> None:
    source = checkpoint(dataclasses.replace(SD1, num_res_blocks=2))
    lost = "model.diffusion_model.input_blocks.11."
    broken = InMemory({key: source.read(key) for key in source.keys() if not key.startswith(lost)}, metadata=METADATA)
    with pytest.raises(KeysDoNotMatch, match=r"levels of \[2, 2, 2, 1\] residual blocks"):
        opened(broken)
