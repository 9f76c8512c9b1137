"""SD 1.x checkpoints: what is read off a file, how its parts are bound, and what the whole model computes."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.diffusion.guidance import Conditioning
from backend.diffusion.noise_levels import ZERO_SNR_TERMINAL_ALPHA_BAR
from backend.diffusion.prediction import EpsPrediction, VPrediction
from backend.errors import KeysDoNotMatch, NumericalError, UnsupportedCheckpoint
from backend.families.builtin import BUILTIN
from backend.families.family import Machine, Model, ModelFiles, Prompt, identify
from backend.families.sd1 import describe, load
from backend.memory.device import DeviceFacts
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.residency import Residency
from backend.text.emphasis import BUILTIN as EMPHASIS
from backend.weights.safetensors_file import open_safetensors
from backend.weights.source import InMemory, WeightSource
from tests.tiny_checkpoint import METADATA, UNET, tiny_tensors, write_tiny_checkpoint

ORIGINAL = EMPHASIS[0]
DEVICE = DeviceFacts(kind="cpu", name="test", total_bytes=2**33, has_bfloat16=True, has_float16=False)
FULL = DtypePolicy(unet=torch.float32, text_encoder=torch.float32, autoencoder=torch.float32)
LOW = DtypePolicy(unet=torch.bfloat16, text_encoder=torch.bfloat16, autoencoder=torch.bfloat16)


def machine(policy: DtypePolicy = FULL) -> Machine:
    return Machine(device=DEVICE, policy=policy, residency=Residency(2**30))


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return tiny_tensors(dtype=torch.float32)


def opened(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None, *, use_ema: bool = False,
           vae: WeightSource | None = None, policy: DtypePolicy = FULL) -> Model:  # fmt: skip
    source = InMemory(tensors, metadata=METADATA if metadata is None else metadata)
    return load(ModelFiles(checkpoint=source, vae=vae, use_ema=use_ema), machine(policy))


def conditioning(model: Model) -> Conditioning:
    return model.encode_prompt(Prompt(text="a cat", emphasis=ORIGINAL, width=64, height=64))


def predicted(model: Model) -> Tensor:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return model.network([])(x, torch.tensor([500.0]), conditioning(model))


def test_a_tiny_checkpoint_is_one_of_sd1_and_says_its_size(tmp_path: Path) -> None:
    source = open_safetensors(write_tiny_checkpoint(tmp_path / "tiny.safetensors"))
    family = identify(source, BUILTIN)
    assert family is not None
    assert family.name == "sd1"
    assert describe(source).native_size == 64


def test_published_files_say_nothing_and_get_the_family_s_facts(tensors: dict[str, Tensor]) -> None:
    description = describe(InMemory(tensors))
    defaults = description.defaults
    assert (description.native_size, defaults.guidance_scale, defaults.sampler) == (512, 7.0, "dpmpp_2m")


@pytest.mark.parametrize(
    ("metadata", "marker", "is_velocity"),
    [
        ({}, None, False),
        ({"emulsion.prediction_type": "v_prediction"}, None, True),
        ({"modelspec.prediction_type": "v"}, None, True),
        ({"modelspec.prediction_type": "epsilon"}, None, False),
        ({}, "v_pred", True),
    ],
)
def test_prediction_type_is_read_from_metadata_and_markers(
    tensors: dict[str, Tensor], metadata: dict[str, str], marker: str | None, is_velocity: bool
) -> None:
    marked = {**tensors, **({marker: torch.zeros(0)} if marker else {})}
    model = opened(marked, {**METADATA, **metadata})
    assert isinstance(model.prediction, VPrediction if is_velocity else EpsPrediction)


@pytest.mark.parametrize("marker", ["metadata", "tensor"])
def test_zero_terminal_snr_is_read_from_metadata_and_markers(tensors: dict[str, Tensor], marker: str) -> None:
    by_metadata = {"emulsion.zero_terminal_snr": "true"} if marker == "metadata" else {}
    by_tensor = {"ztsnr": torch.zeros(0)} if marker == "tensor" else {}
    model = opened({**tensors, **by_tensor}, {**METADATA, **by_metadata})
    assert model.levels(64, 64, None).sigma_max == pytest.approx((1 / ZERO_SNR_TERMINAL_ALPHA_BAR - 1) ** 0.5)
    defaults = describe(InMemory({**tensors, **by_tensor}, metadata={**METADATA, **by_metadata})).defaults
    assert (defaults.sampler, defaults.schedule) == ("euler", "sgm_uniform")
    assert opened(tensors).levels(64, 64, None).sigma_max == pytest.approx(14.6146, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_stored_type_runs(tmp_path: Path, dtype: torch.dtype) -> None:
    path = write_tiny_checkpoint(tmp_path / "tiny.safetensors", dtype=dtype)
    model = load(ModelFiles(checkpoint=open_safetensors(path)), machine(LOW))
    assert predicted(model).isfinite().all()
    assert model.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 64, 64)


def test_averaged_weights_replace_the_plain_ones_when_asked(tensors: dict[str, Tensor]) -> None:
    plain = "model.diffusion_model."
    averages = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): value * 0.5
        for key, value in tensors.items()
        if key.startswith(plain)
    }
    expected = {key: value * 0.5 if key.startswith(plain) else value for key, value in tensors.items()}
    both = {**tensors, **averages, "model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(7)}
    assert torch.equal(predicted(opened(both, use_ema=True)), predicted(opened(expected)))
    assert torch.equal(predicted(opened(both)), predicted(opened(tensors)))
    with pytest.raises(UnsupportedCheckpoint, match="averaged"):
        opened(tensors, use_ema=True)


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_an_external_vae_replaces_the_checkpoint_s(tensors: dict[str, Tensor], prefix: str) -> None:
    other = {
        key.replace("first_stage_model.", prefix): value
        for key, value in tiny_tensors(seed=1, dtype=torch.float32).items()
        if key.startswith("first_stage_model.")
    }
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    own, external = opened(tensors), opened(tensors, vae=InMemory(other, metadata={}))
    assert external.decode(latents).shape == own.decode(latents).shape
    assert not torch.allclose(external.decode(latents), own.decode(latents))


@pytest.mark.parametrize("channels", [8, 9])
def test_unets_with_extra_channels_make_pictures_from_text(channels: int) -> None:
    model = opened(tiny_tensors(unet=dataclasses.replace(UNET, in_channels=channels), dtype=torch.float32))
    prediction = predicted(model)
    assert prediction.shape == (1, 4, 8, 8)
    assert prediction.isfinite().all()


def test_unets_with_other_channels_are_refused() -> None:
    with pytest.raises(UnsupportedCheckpoint, match="5 channels"):
        opened(tiny_tensors(unet=dataclasses.replace(UNET, in_channels=5)))


def test_a_missing_key_is_named(tensors: dict[str, Tensor]) -> None:
    lost = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    model = opened({key: value for key, value in tensors.items() if key != lost})
    with pytest.raises(KeysDoNotMatch, match=r"middle_block\.0\.in_layers\.2\.weight") as caught:
        model.network([])
    assert caught.value.missing == ("middle_block.0.in_layers.2.weight",)


def test_a_misshaped_key_is_named(tensors: dict[str, Tensor]) -> None:
    key = "first_stage_model.decoder.conv_out.weight"
    model = opened({**tensors, key: torch.zeros(3, 8, 1, 1)})
    with pytest.raises(KeysDoNotMatch, match=r"decoder\.conv_out\.weight"):
        model.decode(torch.zeros(1, 4, 8, 8))


def test_an_unexpected_key_is_named(tensors: dict[str, Tensor]) -> None:
    model = opened({**tensors, "model.diffusion_model.surprise.weight": torch.zeros(1)})
    with pytest.raises(KeysDoNotMatch, match="surprise"):
        model.network([])


def test_decoding_that_overflows_low_precision_is_done_again_in_float32(tensors: dict[str, Tensor]) -> None:
    weights = {**tensors, "first_stage_model.decoder.norm_out.bias": torch.full((8,), 1e30)}
    low = DtypePolicy(unet=torch.float32, text_encoder=torch.float32, autoencoder=torch.float16)
    assert opened(weights, policy=low).decode(torch.zeros(1, 4, 8, 8)).isfinite().all()


def test_a_vae_with_nan_weights_is_a_typed_error(tensors: dict[str, Tensor]) -> None:
    weights = {**tensors, "first_stage_model.decoder.conv_in.bias": torch.full((16,), torch.nan)}
    with pytest.raises(NumericalError, match="VAE"):
        opened(weights, policy=LOW).decode(torch.zeros(1, 4, 8, 8))


def test_preview_colours_explain_decoded_pictures_that_they_were_not_fitted_on(tensors: dict[str, Tensor]) -> None:
    model = opened(tensors)
    coarse = torch.randn(8, 4, 2, 2, generator=torch.Generator().manual_seed(5))
    latents = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    decoded = torch.nn.functional.avg_pool2d(model.decode(latents) / 2 + 0.5, 8)
    fitted = model.latent_preview().rgb(latents)
    spread = (decoded - decoded.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
    assert (fitted - decoded).square().mean() < 0.8 * spread
